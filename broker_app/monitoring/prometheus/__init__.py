"""Files for Prometheus and Grafana: rules, alerts, the dashboard."""
