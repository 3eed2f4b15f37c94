// The page of `run --survey`: verdict, counts, what changed, grouped.

const { counts, record_anew: anew } = report;
const nameOf = (group) => `${group.field}, ${many(group.calls, "call")}`;
const first = (group) =>
  `${group.first.scope} #${group.first.i}${group.first.at ? `, epoch ${group.first.at[0]}, step ${group.first.at[1]}` : ""}`;

const explorer = makeExplorer({
  items: report.groups,
  noun: "group",
  timeline: null,
  list: "What changed",
  looks: [],
  look: () => null,
  name: nameOf,
  differs: () => true,
  filters: [],
  title: (group) => [el("code", {}, t(group.field)), ` \u2014 ${many(group.calls, "call")}`],
  detail: (group) => [
    el("p", { class: "facts" }, el("span", {}, "first in ", t(first(group))), group.character === null ? null : el("span", {}, `from character ${number(group.character)}`)),
    el("p", {}, "Agents: ", group.scopes.slice(0, 40).map((scope, at) => [at ? ", " : null, t(scope)]), group.scopes.length > 40 ? ` and ${group.scopes.length - 40} more` : null),
    sideBySide(group.a, group.b, ["Recorded", "Asked now"]),
  ],
  search: (group) => [group.field, group.a, group.b, ...group.scopes].join("\n"),
  columns: [
    { title: "Calls", width: "4.5rem", cell: (group) => number(group.calls) },
    { title: "Field", width: "minmax(9rem, 14rem)", cell: (group) => el("code", {}, t(group.field, 60)) },
    { title: "Recorded", width: "minmax(10rem, 1fr)", cell: (group) => t(group.a, 120) },
    { title: "Asked now", width: "minmax(10rem, 1fr)", cell: (group) => t(group.b, 120) },
    { title: "Agents", width: "minmax(6rem, 12rem)", cell: (group) => t(group.scopes.slice(0, 6).join(", "), 60) },
    { title: "First", width: "14rem", cell: (group) => t(first(group), 60) },
  ],
});

const row = (label, value) => el("tr", {}, el("th", { scope: "row" }, label), el("td", {}, number(value)));
page(
  "survey",
  [t(report.cassette), " of scenario ", t(report.scenario)],
  report.versions.length ? el("ul", { class: "evidence" }, report.versions.map((line) => el("li", {}, t(line, 1000)))) : null,
  el("p", {}, el("strong", {}, `To record anew: ${many(anew.calls, "call")}`), `, about ${seconds(anew.seconds)} at the recorded speed; at most ${many(anew.at_most_calls, "call")} and ${seconds(anew.at_most_seconds)}, since other answers lead to other prompts.`),
  el(
    "table",
    { class: "pairs narrow" },
    el("caption", { class: "unseen" }, "Calls"),
    el("tbody", {}, row("same as recorded", counts.same), row("changed prompt", counts.changed), row("not in the cassette", counts.unrecorded), row("recorded but not asked", counts.unplayed)),
  ),
  explorer.element,
);
