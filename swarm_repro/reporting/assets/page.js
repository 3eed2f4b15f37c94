// Building blocks: elements, hostile text, theme, the detail drawer.
// Texts of a report are model output. They reach the page as text nodes only, with every character
// that is unseen or acts on its surroundings replaced by a visible mark.

const report = JSON.parse(document.getElementById("report").textContent);

const UNSEEN = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}\p{Co}\p{Cn}\p{DI}]|(?![ \u3000])\p{Zs}/gu;
const SHORT = { "\n": "\u21b5", "\t": "\u21e5" };
const PIECE = 10000; // characters of one text put on the page at a time

const codeOf = (character) =>
  "U+" + character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");

// For attributes and titles, where no mark-up is possible.
const plain = (text) => String(text).replace(UNSEEN, (found) => (found === "\n" ? " " : codeOf(found)));

// The first `count` UTF-16 units, never ending inside a surrogate pair.
function cut(text, count) {
  if (text.length <= count) return text;
  const last = text.charCodeAt(count - 1);
  return text.slice(0, last >= 0xd800 && last <= 0xdbff ? count - 1 : count);
}

function put(parent, text, lines) {
  let from = 0;
  for (const match of text.matchAll(UNSEEN)) {
    const character = match[0];
    if (lines && (character === "\n" || character === "\t")) continue;
    if (match.index > from) parent.append(text.slice(from, match.index));
    const mark = document.createElement("span");
    mark.className = "mark";
    mark.textContent = SHORT[character] ?? codeOf(character);
    mark.title = codeOf(character);
    parent.append(mark);
    from = match.index + character.length;
  }
  if (from < text.length) parent.append(from ? text.slice(from) : text);
}

function el(tag, properties, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : plain(value));
  }
  add(element, children);
  return element;
}

function add(parent, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    if (child instanceof Node) parent.append(child);
    else put(parent, String(child), false);
  }
}

// A text of the report inside a line: isolated, so that its direction ends where it ends.
function t(text, limit = 200) {
  const value = String(text);
  const short = cut(value, limit);
  const element = el("bdi", { class: "t" }, short);
  if (short.length < value.length) element.append(el("span", { class: "muted" }, "\u2026"));
  return element;
}

// Appends a text of any length, PIECE characters at a time.
function putLong(parent, text) {
  const piece = cut(text, PIECE);
  put(parent, piece, true);
  const rest = text.slice(piece.length);
  if (!rest) return;
  parent.append(
    more(`show ${number(Math.min(PIECE, rest.length))} of ${number(rest.length)} more characters`, (into) =>
      putLong(into, rest),
    ),
  );
}

// A button that is replaced by what it stands for.
function more(label, fill) {
  const button = el("button", { type: "button", class: "more" }, label);
  button.addEventListener("click", () => {
    const into = el("span", { tabindex: "-1" });
    fill(into);
    button.replaceWith(into);
    into.focus({ preventScroll: true });
  });
  return button;
}

const FORMAT = new Intl.NumberFormat("en", { maximumFractionDigits: 20 });
const number = (value) => FORMAT.format(value);
const fixed = (value, digits) => (value === null ? "unknown" : Number(value.toPrecision(digits)).toString());

function seconds(value) {
  if (value === null || value === undefined) return "\u2013";
  if (value < 120) return `${number(Number(value.toFixed(value < 10 ? 2 : 1)))} s`;
  const minutes = Math.floor(value / 60);
  return minutes < 120
    ? `${minutes} min ${Math.floor(value % 60)} s`
    : `${number(Math.floor(minutes / 60))} h ${minutes % 60} min`;
}

const many = (count, one, several = one + "s") => `${number(count)} ${count === 1 ? one : several}`;

function button(label, action, properties = {}) {
  return el("button", { type: "button", ...properties, onclick: action }, label);
}

function section(title, ...children) {
  return el("section", {}, el("h2", {}, title), children);
}

// Rows of [field, a, b]; rows that differ are marked with a sign, not by colour alone.
function pairTable(caption, head, rows) {
  return el(
    "div",
    { class: "wide" },
    el(
      "table",
      { class: "pairs" },
      el("caption", { class: "unseen" }, caption),
      el("thead", {}, el("tr", {}, head.map((title) => el("th", { scope: "col" }, title)))),
      el(
        "tbody",
        {},
        rows.map(([field, a, b, differs]) =>
          el(
            "tr",
            { class: differs ? "differs" : null },
            el("th", { scope: "row" }, differs ? el("span", { class: "sign", title: "differs" }, "\u2260 ") : null, field),
            el("td", {}, a),
            el("td", {}, b),
          ),
        ),
      ),
    ),
  );
}

const valueText = (value) =>
  value === null || value === undefined
    ? "\u2013"
    : Array.isArray(value) && value.every((item) => typeof item === "string")
      ? value.join(" ")
      : typeof value === "string"
        ? value
        : JSON.stringify(value);

// Fields of one or more environments: [field, text] with the values of all of them.
function environmentFields(environments) {
  const fields = new Map();
  for (const environment of environments) {
    for (const [field, value] of Object.entries(environment)) {
      if (!fields.has(field)) fields.set(field, new Set());
      fields.get(field).add(valueText(value));
    }
  }
  return new Map([...fields].map(([field, values]) => [field, [...values].join(" | ")]));
}

function environmentDifferences(title, differences, heads) {
  if (!differences.length) return null;
  return [
    el("h3", {}, title),
    pairTable(
      title,
      ["field", ...heads],
      differences.map((one) => [t(one.field), t(one.a, 2000), t(one.b, 2000), true]),
    ),
  ];
}

// What was said where two texts part: context, both continuations, candidates, margin.
function partingView(parting, names) {
  const line = (name, text, other) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, name),
      el("td", {}, el("bdi", { class: "t muted" }, parting.a_before), el("bdi", { class: `t ${other}` }, text || "(end of text)")),
    );
  const candidates = new Map();
  for (const [side, list] of [["a", parting.a_candidates], ["b", parting.b_candidates]]) {
    for (const one of list) {
      if (!candidates.has(one.token)) candidates.set(one.token, {});
      candidates.get(one.token)[side] = one.logprob;
    }
  }
  const probability = (value) =>
    value === undefined
      ? "\u2013"
      : value === null
        ? "unknown"
        : `${value.toFixed(3)} (${(100 * Math.exp(value)).toFixed(1)} %)`;
  const tie =
    parting.near_tie === null
      ? "no logprobs at hand"
      : parting.near_tie
        ? "near tie: arithmetic alone can flip it"
        : "no near tie: more than arithmetic";
  return el(
    "div",
    { class: "parting" },
    el(
      "p",
      {},
      `The texts part at ${parting.unit} ${number(parting.index)}`,
      parting.unit === "token" ? ` (character ${number(parting.character)})` : null,
      "; ",
      el("strong", {}, tie),
      parting.margin === null ? null : `; margin ${fixed(parting.margin, 3)} nats`,
      parting.drift === null ? null : `; logprobs before it differ by up to ${fixed(parting.drift, 3)} nats`,
      ".",
    ),
    el("table", { class: "lines" }, el("tbody", {}, line(names[0], parting.a, "a-text"), line(names[1], parting.b, "b-text"))),
    candidates.size
      ? el(
          "table",
          { class: "candidates" },
          el("thead", {}, el("tr", {}, ["candidate", `logprob in ${names[0]}`, `in ${names[1]}`].map((title) => el("th", { scope: "col" }, title)))),
          el(
            "tbody",
            {},
            [...candidates].slice(0, 40).map(([token, of]) =>
              el("tr", {}, el("th", { scope: "row" }, t(token)), el("td", {}, probability(of.a)), el("td", {}, probability(of.b))),
            ),
          ),
        )
      : null,
  );
}

const status = el("div", { class: "unseen", role: "status", id: "status" });
const say = (text) => {
  status.textContent = plain(text);
};

// The drawer at the bottom: one item in detail. Not modal: the page stays usable beside it.
function makeDrawer(name) {
  const title = el("h2", { id: "detail-title", tabindex: "-1" });
  const actions = el("div", { class: "actions" });
  const body = el("div", { class: "body" });
  const close = button("Close", () => drawer.close(), { "aria-keyshortcuts": "Escape" });
  const element = el(
    "section",
    { id: "detail", role: "region", "aria-labelledby": "detail-title", hidden: true },
    el("div", { class: "bar" }, title, actions, close),
    body,
  );
  let origin = null;
  const drawer = {
    element,
    name,
    isOpen: () => !element.hidden,
    show(heading, buttons, content, { focus = false } = {}) {
      if (element.hidden) {
        origin = document.activeElement;
        element.hidden = false;
        document.documentElement.classList.add("with-detail");
      }
      const label = document.activeElement?.closest?.("#detail .actions") ? document.activeElement.dataset.action : null;
      title.replaceChildren();
      add(title, [heading]);
      actions.replaceChildren();
      add(actions, [buttons]);
      body.replaceChildren();
      add(body, [content]);
      body.scrollTop = 0;
      if (label) (actions.querySelector(`[data-action="${label}"]:not([disabled])`) ?? title).focus({ preventScroll: true });
      else if (focus) title.focus({ preventScroll: true });
    },
    close() {
      if (element.hidden) return;
      const inside = element.contains(document.activeElement);
      element.hidden = true;
      document.documentElement.classList.remove("with-detail");
      if (inside) (origin?.isConnected ? origin : document.body).focus();
    },
  };
  return drawer;
}

function themeButton() {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  const toggle = button("", () => {
    chosen = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    apply();
  }, { id: "theme" });
  function apply() {
    const theme = chosen ?? (dark.matches ? "dark" : "light");
    document.documentElement.dataset.theme = theme;
    toggle.textContent = theme === "dark" ? "Light" : "Dark";
    toggle.setAttribute("aria-label", `Switch to ${theme === "dark" ? "light" : "dark"} colours`);
  }
  dark.addEventListener("change", apply);
  apply();
  return toggle;
}

// The whole page: head with the verdict, then the parts.
function page(what, subject, ...parts) {
  const main = document.getElementById("page");
  main.replaceChildren();
  add(main, [
    el(
      "header",
      {},
      el("p", { class: "brand" }, "swarm_repro ", el("strong", {}, what), " ", subject, el("span", { class: "muted" }, " recorder ", t(report.recorder))),
      themeButton(),
    ),
    el("h1", {}, t(report.verdict, 2000)),
    parts,
    status,
  ]);
}

async function copyText(text, from) {
  const range = document.createRange();
  range.selectNodeContents(from);
  const selection = window.getSelection();
  selection.removeAllRanges();
  selection.addRange(range);
  try {
    await navigator.clipboard.writeText(text);
    say("Copied.");
  } catch (error) {
    say(`Selected; copy it with your keyboard (${error.name}).`);
  }
}
