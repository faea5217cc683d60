// Element factories. Text is inserted as text: nothing on this page parses markup.

const SVG = "http://www.w3.org/2000/svg";

/** Return an HTML element. `facts`: class, data (object), and properties such as title, type, hidden, onclick. */
export function element(tag, facts = {}, ...children) {
  const made = document.createElement(tag);
  const { class: name, data, ...properties } = facts;
  if (name) made.className = name;
  Object.assign(made.dataset, data ?? {});
  Object.assign(made, properties);
  made.append(...children);
  return made;
}

/** Return an SVG element with attributes. */
export function shape(tag, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** Set the text only if it changed, so that the user's selection survives. */
export function write(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

/** Return a button that is disabled while its action runs. */
export function button(text, action, name = "") {
  const made = element("button", { type: "button", class: name }, text);
  made.addEventListener("click", async () => {
    made.disabled = true;
    try {
      await action();
    } finally {
      made.disabled = false;
    }
  });
  return made;
}

/** Return a button that asks for confirmation before an irreversible action. */
export function carefulButton(text, question, action, name = "danger") {
  const SECONDS_TO_THINK = 10;
  let isAsked = false;
  const made = button(text, async () => {
    if (isAsked) {
      rest();
      await action();
      return;
    }
    isAsked = true;
    made.textContent = question;
    made.classList.add("asked");
    setTimeout(rest, SECONDS_TO_THINK * 1000);
  }, name);
  function rest() {
    isAsked = false;
    made.textContent = text;
    made.classList.remove("asked");
  }
  return made;
}
