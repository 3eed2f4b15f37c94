// The page of `audit`: recommendation, heat map of settings by experiments, prices, what is missing.

const key = (setting, experiment) => `${setting}\n${experiment}`;
const cellAt = new Map(report.cells.map((cell) => [key(cell.setting, cell.experiment), cell]));
const prices = new Map(report.price.map((price) => [price.setting, price]));
const drawer = makeDrawer("cell");
const order = []; // experiments in the order of the rows

// For a POSIX shell: flags are copied into one.
const quoted = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`);
const commandLine = (flags) => flags.map(quoted).join(" ");

// Groups of experiments, in order; what is compared decides how a cell reads.
const KINDS = new Map([
  ["within", "Within a setting: distinct answers to the same request; one everywhere makes it deterministic"],
  ["across", "A setting against itself changed: must two machines have this in common?"],
  ["seed", "Without a seed, and with seeds that mean none: more than one answer is as asked"],
]);

function heat(cell, kind) {
  if (!cell) return { style: "none", text: "\u2013", note: "not tried" };
  if (cell.status !== "done") return { style: cell.status, text: cell.status === "failed" ? "\u2715 failed" : "\u2013 skipped", note: cell.why ?? cell.status };
  const drift = cell.logprob_drift && cell.distinct <= 1 ? ` \u00b1${fixed(cell.logprob_drift, 2)}` : "";
  const note = `${many(cell.distinct, "distinct answer")} out of ${cell.of}${drift ? `, logprobs differ by up to${drift.replace("\u00b1", "")} nats` : ""}`;
  const isOne = cell.distinct <= 1;
  const count = `${cell.distinct} of ${cell.of}`;
  if (kind === "seed") return { style: "neutral", text: count, note };
  if (kind === "across") return { style: isOne ? "heat-0" : "heat-3", text: (isOne ? "\u2713 same" : "other") + drift, note };
  const share = cell.of > 1 ? (cell.distinct - 1) / (cell.of - 1) : 0;
  const level = isOne ? 0 : Math.min(4, 1 + Math.floor(share * 4));
  return { style: `heat-${level}`, text: (isOne ? "\u2713 " : "") + count + drift, note };
}

function open(setting, experiment, options = {}) {
  const cell = cellAt.get(key(setting.name, experiment.name));
  const look = heat(cell, experiment.kind);
  drawer.show(
    [t(setting.name), " \u00d7 ", t(experiment.name), ` \u2014 ${cell?.status === "done" ? look.note : cell?.status ?? "not tried"}`],
    [],
    [
      cell && cell.why !== null ? el("p", {}, t(cell.why, 2000)) : null,
      el("p", {}, t(experiment.what, 1000)),
      el("p", {}, t(setting.what, 1000)),
      cell && cell.status === "done"
        ? el(
            "p",
            { class: "facts" },
            [
              cell.worst_prompt ? ["worst prompt: ", t(cell.worst_prompt)] : null,
              `largest difference of logprobs where the text agrees: ${cell.logprob_drift === null ? "not measured" : `${fixed(cell.logprob_drift, 3)} nats`}`,
              `took ${seconds(cell.seconds)}`,
            ].filter(Boolean).map((fact) => el("span", {}, fact)),
          )
        : null,
      cell?.divergence ? [el("h3", {}, "First divergence"), partingView(cell.divergence, ["first answer", "other answer"])] : null,
      el("h3", {}, "Setting"),
      settingView(setting),
    ],
    options,
  );
}

function settingView({ flags, request, command }) {
  return el(
    "dl",
    {},
    el("dt", {}, "flags"),
    el("dd", {}, flags.length ? el("code", {}, t(commandLine(flags), 5000)) : "none"),
    command ? [el("dt", {}, "command"), el("dd", {}, el("code", {}, t(command, 5000)))] : null,
    el("dt", {}, "request fields"),
    el("dd", {}, Object.keys(request).length ? el("code", {}, t(JSON.stringify(request), 5000)) : "none"),
  );
}

function heatMap() {
  const buttons = [];
  const rows = [];
  const kinds = new Set([...KINDS.keys(), ...report.experiments.map((one) => one.kind)]);
  for (const kind of kinds) {
    const group = report.experiments.filter((one) => one.kind === kind);
    if (!group.length) continue;
    rows.push(el("tr", { class: "kind" }, el("th", { scope: "rowgroup", colspan: report.settings.length + 1 }, KINDS.get(kind) ?? t(kind))));
    rows.push(...group.map(line));
  }

  function line(experiment) {
    const row = buttons.length;
    order.push(experiment);
    buttons.push(
      report.settings.map((setting, column) => {
        const look = heat(cellAt.get(key(setting.name, experiment.name)), experiment.kind);
        return button(look.text, () => open(setting, experiment), {
          class: look.style,
          title: `${setting.name}, ${experiment.name}: ${look.note}`,
          "aria-label": `${setting.name}, ${experiment.name}: ${look.note}`,
          tabindex: row || column ? "-1" : "0",
        });
      }),
    );
    return el(
      "tr",
      {},
      el("th", { scope: "row", title: experiment.what }, t(experiment.name, 60)),
      buttons[row].map((cell) => el("td", {}, cell)),
    );
  }

  const table = el(
    "table",
    { class: "heat", role: "grid", "aria-label": "Distinct answers, experiments by settings", "aria-describedby": "heat-keys" },
    el(
      "thead",
      {},
      el(
        "tr",
        {},
        el("td", {}),
        report.settings.map((setting) => {
          const best = report.recommended?.setting === setting.name;
          return el("th", { scope: "col", class: best ? "best" : null, title: setting.what }, best ? "\u2605 " : null, t(setting.name, 60), best ? el("span", { class: "unseen" }, " (recommended)") : null);
        }),
      ),
    ),
    el(
      "tbody",
      {},
      rows,
      report.price.length
        ? el(
            "tr",
            { class: "price" },
            el("th", { scope: "row", title: "Time for the same requests, relative to the default" }, "price"),
            report.settings.map((setting) => {
              const cost = prices.get(setting.name);
              return el("td", {}, !cost ? "\u2013" : cost.relative === null ? seconds(cost.seconds) : `${fixed(cost.relative, 3)}\u00d7 (${seconds(cost.seconds)})`);
            }),
          )
        : null,
    ),
  );
  table.addEventListener("focusin", (event) => {
    for (const one of buttons.flat()) one.tabIndex = one === event.target ? 0 : -1;
  });
  table.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const row = buttons.findIndex((line) => line.includes(event.target));
    if (row < 0) return;
    const column = buttons[row].indexOf(event.target);
    const to = {
      ArrowRight: () => buttons[row][column + 1],
      ArrowLeft: () => buttons[row][column - 1],
      ArrowDown: () => buttons[row + 1]?.[column],
      ArrowUp: () => buttons[row - 1]?.[column],
      Home: () => buttons[row][0],
      End: () => buttons[row][buttons[row].length - 1],
      Enter: () => {
        open(report.settings[column], order[row], { focus: true });
        return null;
      },
    }[event.key];
    if (!to) return;
    event.preventDefault();
    to()?.focus();
  });
  return section(
    "Answers by experiment and setting",
    el("div", { class: "wide" }, table),
    el(
      "ul",
      { class: "legend", "aria-label": "Legend" },
      [["heat-0", "\u2713", "one answer, the same"], ["heat-1", "", "few"], ["heat-2", "", ""], ["heat-3", "", "other"], ["heat-4", "", "nearly all differ"], ["failed", "\u2715", "failed"], ["skipped", "\u2013", "skipped"]].map(
        ([style, sign, label]) => el("li", {}, el("span", { class: `swatch ${style}`, "aria-hidden": "true" }, sign), label ? ` ${label}` : null),
      ),
    ),
    el("p", { class: "keys", id: "heat-keys" }, [["\u2190 \u2192 \u2191 \u2193", "cells"], ["Enter", "open"], ["Esc", "close"]].map(([one, what]) => [el("kbd", {}, one), ` ${what}  `])),
  );
}

function copyable(text, id) {
  const code = el("code", { id }, t(text, 5000));
  return el("div", { class: "copy" }, code, button("Copy", () => copyText(text, code), { id: `copy-${id}`, "aria-label": `Copy the ${id}` }));
}

function recommendation() {
  const best = report.recommended;
  if (!best) return section("Recommendation", el("p", {}, "No setting gave one answer in every experiment."));
  return section(
    "Recommendation",
    el(
      "p",
      {},
      "The cheapest setting with one answer in every experiment within it: ",
      el("strong", {}, t(best.setting)),
      best.relative_price === null ? null : `, at ${fixed(best.relative_price, 3)} times the time of the default`,
      best.exact ? "; logprobs agreed to the bit, too" : null,
      ".",
    ),
    best.flags.length ? [el("h3", {}, "llama-server's flags"), copyable(commandLine(best.flags), "flags")] : null,
    best.command ? [el("h3", {}, "or"), copyable(best.command, "command")] : null,
    Object.keys(best.request).length ? el("p", {}, "and in every request ", el("code", {}, t(JSON.stringify(best.request), 2000))) : null,
  );
}

const lines = (title, list) =>
  list.length ? section(title, el("ul", { class: "evidence" }, list.map((line) => el("li", {}, t(line, 1000))))) : null;

function conditions() {
  return section(
    "Measured on",
    el(
      "table",
      { class: "pairs" },
      el("caption", { class: "unseen" }, "Conditions"),
      el(
        "tbody",
        {},
        [
          ["model", `${report.model.file} (SHA-256 ${report.model.sha256})`],
          ["threads", number(report.threads)],
          ["context", many(report.n_ctx, "token")],
          ["repeats", number(report.repeat)],
          ["prompts", report.prompts.map((prompt) => `${prompt.name}: ${prompt.tokens === null ? "" : `${number(prompt.tokens)} tokens, `}${prompt.source}`).join("; ")],
          ...environmentFields([report.environment]),
        ].map(([field, value]) => el("tr", {}, el("th", { scope: "row" }, t(field)), el("td", {}, t(value, 2000)))),
      ),
    ),
  );
}

const map = heatMap();
const container = el("div", { class: "explorer" }, map, drawer.element);
container.addEventListener("keydown", (event) => {
  if (event.key === "Escape") drawer.close();
});
page(
  "audit",
  t(report.model.file),
  recommendation(),
  container,
  lines("Notes", report.notes),
  lines("Missing", report.missing),
  conditions(),
);
