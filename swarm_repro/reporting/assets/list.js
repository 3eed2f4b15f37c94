// The items as a list that can be filtered; only the lines that can be seen are on the page.

const LINE = 28; // px, as in report.css

function makeTable(config, explorer) {
  const { items } = config;
  const template = config.columns.map((column) => column.width).join(" ");
  const drawn = new Map();
  let shown = [];
  let extra = null; // {label, has(item)}: only these
  let texts = null;

  const boxes = config.filters.map((filter) => {
    const box = el("input", { type: "checkbox", checked: filter.on });
    box.addEventListener("change", filterItems);
    return { filter, box };
  });
  const search = el("input", { type: "search", placeholder: "agent, field, text\u2026", "aria-label": "Search in the list" });
  let timer = 0;
  search.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(filterItems, 150);
  });
  const count = el("span", { class: "muted", role: "status", id: "list-count" });
  const only = el("span", {});
  const head = el("div", { class: "row head", role: "row", "aria-rowindex": "1" }, config.columns.map((column) => el("span", { role: "columnheader" }, column.title)));
  head.style.gridTemplateColumns = template;
  const rows = el("div", { class: "rows", role: "rowgroup" });
  const scroller = el(
    "div",
    { id: "list", class: "list", tabindex: "0", role: "grid", "aria-label": config.list, "aria-colcount": config.columns.length },
    el("div", { role: "rowgroup", class: "heads" }, head),
    rows,
  );
  let queued = false;

  function filterItems() {
    const wanted = search.value.trim().toLowerCase();
    if (wanted) texts ??= items.map((item) => config.search(item).toLowerCase());
    const on = boxes.filter(({ box }) => box.checked).map(({ filter }) => filter);
    shown = [];
    items.forEach((item, index) => {
      if (extra && !extra.has(item)) return;
      if (!extra && boxes.length && !on.some((filter) => filter.has(item))) return;
      if (wanted && !texts[index].includes(wanted)) return;
      shown.push(index);
    });
    count.textContent = `${number(shown.length)} of ${many(items.length, config.noun)}`;
    scroller.setAttribute("aria-rowcount", String(shown.length + 1));
    rows.style.height = `${shown.length * LINE}px`;
    scroller.classList.toggle("none", shown.length === 0);
    render();
  }

  function makeLine(index) {
    const row = el(
      "div",
      { class: "row", id: `line-${index}`, role: "row", "data-index": index },
      config.columns.map((column) => el("span", { role: "gridcell" }, column.cell(items[index]))),
    );
    row.style.gridTemplateColumns = template;
    return row;
  }

  function render(first, last) {
    queued = false;
    first ??= Math.max(0, Math.floor(scroller.scrollTop / LINE) - SPARE);
    last ??= Math.min(shown.length, Math.ceil((scroller.scrollTop + scroller.clientHeight) / LINE) + SPARE);
    redraw(rows, drawn, shown.slice(first, last), makeLine, (row, index, place) => {
      row.style.top = `${(first + place) * LINE}px`;
      row.setAttribute("aria-rowindex", String(first + place + 2));
      row.setAttribute("aria-selected", String(index === explorer.selected));
      row.classList.toggle("selected", index === explorer.selected);
    });
    if (drawn.has(explorer.selected)) scroller.setAttribute("aria-activedescendant", `line-${explorer.selected}`);
    else scroller.removeAttribute("aria-activedescendant");
  }

  const placeOf = () => {
    let low = 0;
    let high = shown.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (shown[middle] < explorer.selected) low = middle + 1;
      else high = middle;
    }
    return low;
  };

  function update() {
    const place = placeOf();
    if (shown[place] === explorer.selected) {
      const top = place * LINE;
      const room = scroller.clientHeight - 2 * LINE;
      if (top < scroller.scrollTop) scroller.scrollTop = top;
      else if (top > scroller.scrollTop + room) scroller.scrollTop = top - room;
    }
    render();
  }

  scroller.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !shown.length) return;
    const place = placeOf();
    const inside = shown[place] === explorer.selected;
    const page = Math.max(1, Math.floor(scroller.clientHeight / LINE) - 2);
    const moves = {
      ArrowDown: () => (inside ? place + 1 : place),
      ArrowUp: () => place - 1,
      Home: () => 0,
      End: () => shown.length - 1,
      PageDown: () => place + page,
      PageUp: () => place - page,
    };
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      if (inside) explorer.select(explorer.selected, { show: true, focus: true });
    } else if (moves[event.key]) {
      event.preventDefault();
      explorer.select(shown[Math.min(shown.length - 1, Math.max(0, moves[event.key]()))]);
    }
  });
  rows.addEventListener("click", (event) => {
    const row = event.target.closest("[data-index]");
    if (row) explorer.select(Number(row.dataset.index), { show: true });
  });
  scroller.addEventListener("scroll", () => {
    if (!queued) requestAnimationFrame(() => render());
    queued = true;
  });
  new ResizeObserver(() => render()).observe(scroller);
  // On paper there is no scrolling: as many lines as are sensible, at once.
  window.addEventListener("beforeprint", () => render(0, Math.min(shown.length, 1000)));
  window.addEventListener("afterprint", () => render());

  function narrow(label, has) {
    extra = has ? { label, has } : null;
    only.replaceChildren();
    if (extra) only.append(button(`${label} \u2715`, () => narrow(null, null), { class: "chip", title: "Show all again" }));
    for (const { box } of boxes) box.disabled = extra !== null;
    scroller.scrollTop = 0;
    filterItems();
    if (!extra) scroller.focus({ preventScroll: true });
  }

  const element = el(
    "div",
    {},
    el(
      "div",
      { class: "filters", role: "group", "aria-label": "Filter" },
      boxes.map(({ filter, box }) => el("label", {}, box, " ", filter.label)),
      search,
      only,
      count,
    ),
    scroller,
  );
  filterItems();
  return { element, update, narrow, scroller };
}
