"use strict";
// The page asks this exchange alone. Texts are put in as text; pictures are parsed as SVG, never as HTML.
const find = (id) => document.getElementById(id);
const REFRESH_MS = 5000;
let minutes = 15;
let token = sessionStorage.getItem("tcgx-operate") || "";

async function ask(path) {
  const answer = await fetch(path, { headers: { authorization: `Bearer ${token}` }, cache: "no-store" });
  const body = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(body.detail || answer.statusText), { status: answer.status });
  return body;
}

function element(name, text, className) {
  const made = document.createElement(name);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

function picture(svg) {
  return document.importNode(new DOMParser().parseFromString(svg, "image/svg+xml").documentElement, true);
}

async function showPanels() {
  const { rows, alerts } = await ask(`/operate/panels?minutes=${minutes}`);
  find("panels").replaceChildren(...rows.flatMap((row) => {
    const grid = element("div", "", "row");
    grid.append(...row.panels.map(picture));
    return [element("h2", row.title), grid];
  }));
  const lines = alerts.map((each) =>
    element("p", `${each.name} (${each.state}, ${each.severity}) since ${each.since.slice(11, 19)}: ${each.summary}`, each.state));
  find("alerts").replaceChildren(...(lines.length ? lines : [element("p", "No alert.", "well")]));
}

async function showLog() {
  const query = new URLSearchParams({ text: find("text").value.trim(), level: find("level").value });
  const { lines } = await ask(`/operate/logs?${query}`);
  find("lines").replaceChildren(...lines.map((line) => {
    const { timestamp, service, level, event, ...fields } = line;
    const row = element("tr", "", level);
    row.append(...[timestamp.slice(0, 23).replace("T", " "), service, level, event].map((text) => element("td", text)));
    const cell = element("td", "");
    for (const [name, value] of Object.entries(fields)) {
      cell.append(`${name}=`);
      if (name === "request_id" || name === "order") {
        const link = element("button", String(value));
        link.addEventListener("click", () => { find("text").value = value; find("level").value = "debug"; refresh(); });
        cell.append(link);
      } else {
        cell.append(typeof value === "object" ? JSON.stringify(value) : String(value));
      }
      cell.append("  ");
    }
    row.append(cell);
    return row;
  }));
}

async function refresh() {
  const outcomes = await Promise.allSettled([showPanels(), showLog()]);
  const failed = outcomes.find((each) => each.status === "rejected");
  const refused = failed && [401, 403].includes(failed.reason.status);
  document.querySelector("main").hidden = Boolean(refused);
  find("login").hidden = !refused;
  find("state").textContent = failed ? failed.reason.message : `as of ${new Date().toISOString().slice(11, 19)} UTC`;
}

async function forever() {
  for (;;) {
    if (token && !document.hidden) await refresh();
    await new Promise((done) => setTimeout(done, REFRESH_MS));
  }
}

for (const button of document.querySelectorAll("nav button")) {
  button.addEventListener("click", () => {
    minutes = Number(button.dataset.minutes);
    for (const each of document.querySelectorAll("nav button")) each.setAttribute("aria-pressed", String(each === button));
    if (token) refresh();
  });
}
find("login").addEventListener("submit", (event) => {
  event.preventDefault();
  token = find("token").value.trim();
  sessionStorage.setItem("tcgx-operate", token);
  if (token) refresh();
});
find("search").addEventListener("submit", (event) => { event.preventDefault(); refresh(); });
forever();
