// A timeline, a table and a detail drawer over the same items, with one selection. Timeline and
// table put only what can be seen on the page, so that their cost does not grow with the recording.

const SPARE = 4; // columns or lines kept ready beyond each edge

// config:
//   items, noun           what is shown, and what one is called
//   timeline, list        headings; timeline null for none (else items have scope and at)
//   looks                 all of {style, letter, label, rank}; look(item) is one of them
//   name, title, search   an item in one line; heading of its detail; the text searched for it
//   differs(item)         whether n and p stop at it
//   filters               [{label, has(item), on}]
//   columns               [{title, width, cell(item)}]
//   detail(item)          content of the drawer; tools(item) more buttons in its bar
//   keys(explorer)        {key: action}; keyHelp [[key, what it does]]
//   linked(explorer)      Set of places to mark in the timeline, or null
function makeExplorer(config) {
  const { items } = config;
  const drawer = makeDrawer(config.noun);
  const explorer = { selected: -1, drawer, select, next, step, open };
  const listeners = [];

  function select(index, { focus = false, show = drawer.isOpen(), speak = false } = {}) {
    if (index < 0 || index >= items.length) return;
    explorer.selected = index;
    if (show) open({ focus });
    for (const listener of listeners) listener();
    if (speak) say(config.name(items[index]));
  }

  function open({ focus = false } = {}) {
    const item = items[explorer.selected];
    if (!item) return;
    drawer.show(
      config.title(item),
      [
        config.tools?.(item) ?? [],
        tool("previous", "\u2039 Previous", () => step(-1), "Previous difference (p)"),
        tool("next", "Next \u203a", () => step(1), "Next difference (n)"),
      ],
      config.detail(item),
      { focus },
    );
  }

  // The next item for which `wanted` holds, around the end.
  function next(direction, wanted, what) {
    for (let distance = 1; distance <= items.length; distance++) {
      const index = (((explorer.selected + direction * distance) % items.length) + items.length) % items.length;
      if (explorer.selected < 0 && direction < 0 && distance === 1) continue;
      if (wanted(items[index])) return select(index, { speak: true });
    }
    say(`There is no ${what}.`);
  }

  function step(direction) {
    next(direction, config.differs, "difference");
  }

  function keys(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, select, textarea")) return;
    const action = { n: () => step(1), p: () => step(-1), Escape: () => drawer.close(), ...config.keys?.(explorer) }[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  }

  const timeline = config.timeline ? makeTimeline(config, explorer) : null;
  const table = makeTable(config, explorer);
  if (timeline) listeners.push(timeline.update);
  listeners.push(table.update);
  explorer.table = table;
  explorer.element = el(
    "div",
    { class: "explorer" },
    timeline ? section(config.timeline, timeline.element) : null,
    section(config.list, table.element),
    drawer.element,
  );
  explorer.element.addEventListener("keydown", keys);
  return explorer;
}

const tool = (action, label, run, title) => button(label, run, { "data-action": action, title });

// Which class an item has, as a cell or a badge: a letter and a shape beside the colour.
function badge(look, properties = {}) {
  return el("span", { class: `cell ${look.style}`, ...properties }, look.letter);
}

function legend(config) {
  const counts = new Map();
  for (const item of config.items) {
    const { label } = config.look(item);
    counts.set(label, (counts.get(label) ?? 0) + 1);
  }
  return el(
    "ul",
    { class: "legend", "aria-label": "Legend" },
    config.looks.filter((look) => counts.has(look.label)).map((look) =>
      el("li", {}, badge(look, { "aria-hidden": "true" }), ` ${number(counts.get(look.label))} ${look.label}`),
    ),
  );
}

// Puts elements for these keys on the page, in order. What is there already stays the same element,
// so that a click that has begun on it also ends on it.
function redraw(parent, drawn, keys, make, update) {
  const wanted = new Set(keys);
  for (const [key, element] of drawn) {
    if (wanted.has(key)) continue;
    element.remove();
    drawn.delete(key);
  }
  let cursor = parent.firstChild;
  keys.forEach((key, place) => {
    if (!drawn.has(key)) drawn.set(key, make(key));
    const element = drawn.get(key);
    if (element === cursor) cursor = cursor.nextSibling;
    else parent.insertBefore(element, cursor);
    update(element, key, place);
  });
}
