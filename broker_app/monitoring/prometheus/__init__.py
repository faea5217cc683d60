"""Files for Prometheus and Grafana: recording rules, alerting rules, and the dashboard."""
