// Calls in order, a column each, in the row of their agent; only what can be seen is on the page.

const COLUMN = 18; // px, as in report.css
const ROW = 24;
const TOP = 40;
const BUCKETS = 240;

function makeTimeline(config, explorer) {
  const { items } = config;
  const scopes = [...new Set(items.map((item) => item.scope))];
  const rowOf = new Map(scopes.map((scope, row) => [scope, row]));
  const byRow = scopes.map(() => []);
  items.forEach((item, index) => byRow[rowOf.get(item.scope)].push(index));
  const epochs = groups(items, (item) => (item.at ? `epoch ${item.at[0]}` : ""));
  const steps = groups(items, (item, index) => (item.at ? `${item.at[0]}\u00b7${item.at[1]}` : `${Math.floor(index / 10) * 10}`));

  const marks = el("div", { class: "marks", "aria-hidden": "true" });
  const corner = el("span", { class: "corner" });
  const labels = el("div", { class: "labels", "aria-hidden": "true" });
  const cells = el("div", { class: "cells", role: "presentation" });
  const sizer = el("div", { class: "sizer", role: "presentation" }, marks, labels, cells);
  const scroller = el(
    "div",
    {
      id: "timeline",
      class: "timeline",
      tabindex: "0",
      role: "listbox",
      "aria-orientation": "horizontal",
      "aria-label": `Timeline: ${many(items.length, "call")} in order, one row for each of ${many(scopes.length, "agent")}`,
      "aria-describedby": "timeline-keys",
    },
    sizer,
  );
  const overview = makeOverview(config, scroller);
  const longest = scopes.reduce((most, scope) => Math.max(most, scope.length), 0);
  const drawn = new Map();
  let side = 70;
  let queued = false;

  function layout() {
    side = Math.max(70, Math.min(longest * 7 + 18, Math.floor(scroller.clientWidth / 4)));
    sizer.style.width = `${side + items.length * COLUMN + 8}px`;
    sizer.style.height = `${TOP + scopes.length * ROW + 4}px`;
    labels.style.width = `${side}px`;
    corner.style.width = `${side}px`;
    render();
  }

  function render() {
    queued = false;
    const { scrollLeft, scrollTop, clientWidth, clientHeight } = scroller;
    const first = Math.max(0, Math.floor(scrollLeft / COLUMN) - SPARE);
    const last = Math.min(items.length, Math.ceil((scrollLeft + clientWidth - side) / COLUMN) + SPARE);
    const top = Math.max(0, Math.floor((scrollTop - TOP) / ROW) - SPARE);
    const bottom = Math.min(scopes.length, Math.ceil((scrollTop + clientHeight) / ROW) + SPARE);
    labels.replaceChildren(
      ...scopes.slice(top, bottom).map((scope, place) => {
        const label = el("div", { class: "label", title: scope }, t(scope, 60));
        label.style.top = `${TOP + (top + place) * ROW}px`;
        return label;
      }),
    );
    const linked = config.linked?.(explorer);
    const shown = [];
    for (let index = first; index < last; index++) {
      const row = rowOf.get(items[index].scope);
      if (row >= top && row < bottom) shown.push(index);
    }
    redraw(cells, drawn, shown, makeCell, (cell, index) => {
      cell.style.left = `${side + index * COLUMN}px`;
      cell.setAttribute("aria-selected", String(index === explorer.selected));
      cell.classList.toggle("linked", linked?.has(index) === true);
    });
    marks.replaceChildren(
      corner,
      ...visible(epochs, first, last).map((group) => mark(group, "epoch", Math.max(group.start, scrollLeft / COLUMN), group.label)),
      ...visible(steps, first, last).map((group) => mark(group, "step", group.start, (group.end - group.start) * COLUMN >= 26 ? group.label : "")),
    );
    if (drawn.has(explorer.selected)) scroller.setAttribute("aria-activedescendant", `cell-${explorer.selected}`);
    else scroller.removeAttribute("aria-activedescendant");
    overview.update();
  }

  function makeCell(index) {
    const item = items[index];
    const cell = badge(config.look(item), {
      id: `cell-${index}`,
      role: "option",
      "aria-setsize": items.length,
      "aria-posinset": index + 1,
      "aria-label": config.name(item),
      title: config.name(item),
      "data-index": index,
    });
    cell.style.top = `${TOP + rowOf.get(item.scope) * ROW + 1}px`;
    return cell;
  }

  function mark(group, kind, from, label) {
    const element = el("div", { class: kind }, label);
    element.style.left = `${side + from * COLUMN}px`;
    // Nothing follows the last one, so that its label may go on.
    const room = group.end === items.length ? 80 : 0;
    element.style.width = `${Math.max(room, (group.end - from) * COLUMN)}px`;
    return element;
  }

  function reveal(index) {
    const left = side + index * COLUMN;
    const top = TOP + rowOf.get(items[index].scope) * ROW;
    if (left - side < scroller.scrollLeft + COLUMN || left + 2 * COLUMN > scroller.scrollLeft + scroller.clientWidth)
      scroller.scrollLeft = Math.max(0, left - side - (scroller.clientWidth - side) / 2);
    if (top - TOP < scroller.scrollTop || top + ROW > scroller.scrollTop + scroller.clientHeight)
      scroller.scrollTop = Math.max(0, top - scroller.clientHeight / 2);
  }

  function update() {
    if (explorer.selected >= 0) reveal(explorer.selected);
    render();
  }

  // The nearest call in another row.
  function vertical(direction) {
    const row = rowOf.get(items[explorer.selected].scope) + direction;
    if (row < 0 || row >= scopes.length) return explorer.selected;
    return byRow[row].reduce((best, index) =>
      Math.abs(index - explorer.selected) < Math.abs(best - explorer.selected) ? index : best,
    );
  }

  scroller.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const page = Math.max(1, Math.floor((scroller.clientWidth - side) / COLUMN) - 1);
    const at = Math.max(0, explorer.selected);
    const moves = {
      ArrowRight: () => (explorer.selected < 0 ? 0 : at + 1),
      ArrowLeft: () => at - 1,
      ArrowDown: () => (explorer.selected < 0 ? 0 : vertical(1)),
      ArrowUp: () => (explorer.selected < 0 ? 0 : vertical(-1)),
      Home: () => 0,
      End: () => items.length - 1,
      PageDown: () => at + page,
      PageUp: () => at - page,
    };
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      explorer.select(at, { show: true, focus: true });
    } else if (moves[event.key] && items.length) {
      event.preventDefault();
      explorer.select(Math.min(items.length - 1, Math.max(0, moves[event.key]())));
    }
  });
  cells.addEventListener("click", (event) => {
    const cell = event.target.closest("[data-index]");
    if (cell) explorer.select(Number(cell.dataset.index), { show: true });
  });
  scroller.addEventListener("scroll", () => {
    if (!queued) requestAnimationFrame(render);
    queued = true;
  });
  new ResizeObserver(layout).observe(scroller);

  const element = el(
    "div",
    {},
    legend(config),
    overview.element,
    scroller,
    el(
      "p",
      { class: "keys", id: "timeline-keys" },
      [["\u2190 \u2192", "calls"], ["\u2191 \u2193", "agents"], ["n p", "next, previous difference"], ...(config.keyHelp ?? []), ["Enter", "open"], ["Esc", "close"]].map(
        ([key, what]) => [el("kbd", {}, key), ` ${what}  `],
      ),
    ),
  );
  return { element, update };
}

// Runs of neighbours with one label.
function groups(items, labelOf) {
  const found = [];
  items.forEach((item, index) => {
    const label = labelOf(item, index);
    const last = found[found.length - 1];
    if (last && last.label === label) last.end = index + 1;
    else found.push({ label, start: index, end: index + 1 });
  });
  return found;
}

function visible(all, first, last) {
  let low = 0;
  let high = all.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (all[middle].end <= first) low = middle + 1;
    else high = middle;
  }
  let end = low;
  while (end < all.length && all[end].start < last) end++;
  return all.slice(low, end);
}

// The whole recording in a strip: each bucket shows the most telling class of its calls.
function makeOverview(config, scroller) {
  const { items } = config;
  const count = Math.min(BUCKETS, items.length);
  const worst = Array.from({ length: count }, () => null);
  items.forEach((item, index) => {
    const bucket = Math.floor((index * count) / items.length);
    const look = config.look(item);
    if (!worst[bucket] || look.rank > worst[bucket].rank) worst[bucket] = look;
  });
  const frame = el("div", { class: "frame" });
  const element = el(
    "div",
    { class: "overview", "aria-hidden": "true" },
    worst.map((look) => el("span", { class: look.style })),
    frame,
  );
  function jump(event) {
    const box = element.getBoundingClientRect();
    scroller.scrollLeft = ((event.clientX - box.left) / box.width) * scroller.scrollWidth - scroller.clientWidth / 2;
  }
  element.addEventListener("pointerdown", (event) => {
    element.setPointerCapture(event.pointerId);
    jump(event);
  });
  element.addEventListener("pointermove", (event) => {
    if (event.buttons) jump(event);
  });
  return {
    element,
    update() {
      element.hidden = scroller.scrollWidth <= scroller.clientWidth + 1;
      frame.style.left = `${(100 * scroller.scrollLeft) / scroller.scrollWidth}%`;
      frame.style.width = `${(100 * scroller.clientWidth) / scroller.scrollWidth}%`;
    },
  };
}
