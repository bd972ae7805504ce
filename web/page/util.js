// Small helpers. All text goes through textContent, so nothing that comes from the exchange can become markup.
export const by = (id) => document.getElementById(id);

export function make(tag, text = "", properties = {}) {
  return Object.assign(document.createElement(tag), { textContent: text }, properties);
}

export function row(cells) {
  const line = document.createElement("tr");
  for (const cell of cells) line.append(cell instanceof Node ? cell : make("td", cell));
  return line;
}

export const number = (text) => make("td", text, { className: "number" });

export const cents = (text) => {
  const found = /^(\d{1,6})(?:[.,](\d{1,2}))?$/.exec(String(text).trim());
  return found ? Number(found[1]) * 100 + Number((found[2] ?? "").padEnd(2, "0")) : NaN;
};

export const money = (value) => `${Math.floor(value / 100)}.${String(value % 100).padStart(2, "0")}`;

export const clock = (time) => (time ? new Date(time).toLocaleTimeString([], { hour12: false }) : "–");

export const sideCell = (side) =>
  make("td", side === "buy" ? "▲ buy" : "▼ sell", { className: side === "buy" ? "buy-text" : "sell-text" });

let quiet = 0;
export function say(text) {
  by("said").textContent = text;
  clearTimeout(quiet);
  quiet = setTimeout(() => (by("said").textContent = ""), 5000);
}
