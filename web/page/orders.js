// Own orders and fills, kept by the stream and read once over REST after each connection.
import { call } from "./api.js";
import { by, clock, make, number, row, say, sideCell } from "./util.js";

const LATEST = 50;
const KEPT_MAX = 1_000;
const OPEN = new Set(["accepted", "open", "partially_filled"]);

export class Orders {
  constructor({ isLive, changed }) {
    this.isLive = isLive;
    this.changed = changed;
    this.byId = new Map();
    this.fills = [];
    this.editing = null;
    this.dirty = true;
    by("cancel-all").addEventListener("click", () => this.cancelAll());
    const tabs = [...document.querySelectorAll('[role="tab"]')];
    tabs.forEach((tab, place) => {
      tab.addEventListener("click", () => choose(tabs, tab));
      tab.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (step) choose(tabs, tabs.at((place + step) % tabs.length)).focus();
      });
    });
  }

  async read() {
    const [orders, open, fills] = await Promise.all([call("GET", "/orders"), call("GET", "/orders?status=open&limit=500"), call("GET", "/fills?limit=50")]);
    for (const order of [...open.orders, ...orders.orders]) this.put(order);
    this.fills = merged(fills.fills, this.fills);
  }

  put(order) {
    const before = this.byId.get(order.order_id);
    if (before && !OPEN.has(before.status) && OPEN.has(order.status)) return;
    if (before && order.filled_quantity < before.filled_quantity) return;
    this.byId.set(order.order_id, order);
    this.dirty = true;
    this.changed();
  }

  take(message) {
    if (message.type === "snapshot") {
      const open = new Set(message.orders.map((order) => order.order_id));
      for (const [id, order] of this.byId) {
        const [card, sequence] = id.split("-");
        if (OPEN.has(order.status) && !open.has(id) && Number(sequence) <= (message.positions[card] ?? 0)) this.byId.delete(id);
      }
      message.orders.forEach((order) => this.put(order));
    } else if (message.type === "order") {
      this.put(message.order);
      if (message.fill) {
        const { trade_id, price, quantity, role } = message.fill;
        const fill = { trade_id, price, quantity, liquidity: role, card: message.order.card, side: message.order.side, executed_at: new Date().toISOString() };
        this.fills = merged([fill], this.fills);
        say(`${message.order.side === "buy" ? "Bought" : "Sold"} ${quantity} ${message.order.card} at ${price}.`);
      }
    }
    this.dirty = true;
  }

  clear() {
    this.byId.clear();
    this.fills = [];
    this.dirty = true;
    this.changed();
  }

  own(card) {
    const found = new Map();
    for (const order of this.byId.values()) {
      if (order.card !== card || !OPEN.has(order.status)) continue;
      const key = `${order.side} ${Math.round(Number(order.price) * 100)}`;
      found.set(key, (found.get(key) ?? 0) + order.quantity - order.filled_quantity);
    }
    return found;
  }

  draw() {
    if (!this.dirty) return;
    this.dirty = false;
    this.prune();
    const newest = [...this.byId.values()].sort((one, other) => (one.accepted_at < other.accepted_at ? 1 : one.accepted_at > other.accepted_at ? -1 : sequence(other) - sequence(one)));
    const open = newest.filter((order) => OPEN.has(order.status));
    by("count-open").textContent = open.length ? `(${open.length})` : "";
    by("cancel-all").hidden = !open.length;
    const focused = document.activeElement?.dataset?.key;
    by("cancel-all").disabled = !this.isLive();
    if (!this.editing) fill("open", open.slice(0, 200).map((order) => this.openRow(order)));
    fill("latest", newest.slice(0, LATEST).map((order) => row(this.cells(order))));
    fill("fills", this.fills.slice(0, LATEST).map((each) => row([each.card, sideCell(each.side), number(each.price), number(String(each.quantity)), each.liquidity, clock(each.executed_at)])));
    if (focused) document.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
  }

  // Closed orders that no table shows are forgotten.
  prune() {
    if (this.byId.size < KEPT_MAX) return;
    const closed = [...this.byId.values()].filter((order) => !OPEN.has(order.status)).sort((one, other) => (one.accepted_at < other.accepted_at ? 1 : -1));
    for (const order of closed.slice(LATEST)) this.byId.delete(order.order_id);
  }

  cells(order) {
    const status = order.status.replace("_", " ") + (order.reason ? ` (${order.reason.replace("_", " ")})` : "");
    return [order.card, sideCell(order.side), number(order.price), number(`${order.filled_quantity} / ${order.quantity}`), status, clock(order.accepted_at)];
  }

  openRow(order) {
    const actions = make("td", "", { className: "actions" });
    for (const [text, act] of [["Change", () => this.edit(order, line)], ["Cancel", () => this.cancel(order)]]) {
      const button = make("button", text, { type: "button", className: "plain", disabled: !this.isLive() });
      button.dataset.key = `${text} ${order.order_id}`;
      button.setAttribute("aria-label", `${text} ${order.side} of ${order.card} at ${order.price}`);
      button.addEventListener("click", act);
      actions.append(button);
    }
    const line = row([...this.cells(order), actions]);
    return line;
  }

  edit(order, line) {
    this.editing = order.order_id;
    const field = (label, value) => {
      const found = make("input", "", { value, className: "edit" });
      found.setAttribute("aria-label", label);
      found.addEventListener("keydown", (event) => {
        if (event.key === "Enter") this.change(order, price.value, quantity.value);
        if (event.key === "Escape") this.stopEditing();
      });
      return found;
    };
    const [price, quantity] = [field("new price", order.price), field("new quantity in all", String(order.quantity))];
    line.cells[2].replaceChildren(price);
    line.cells[3].replaceChildren(quantity);
    const save = make("button", "Save", { type: "button", className: "plain" });
    save.addEventListener("click", () => this.change(order, price.value, quantity.value));
    const leave = make("button", "Leave", { type: "button", className: "plain" });
    leave.addEventListener("click", () => this.stopEditing());
    line.cells[6].replaceChildren(save, leave);
    price.focus();
    price.select();
  }

  async told(act) {
    if (!this.isLive()) return say("Prices are not live: nothing was sent.");
    try {
      await act();
    } catch (error) {
      say(error.message);
    }
  }

  stopEditing() {
    this.editing = null;
    this.dirty = true;
  }

  async change(order, price, quantity) {
    await this.told(async () => {
      const after = await call("PATCH", `/orders/${order.order_id}`, { price, quantity: Number(quantity) }, { prefer: "wait=1" });
      if (after.order_id !== order.order_id) {
        this.put({ ...order, status: "canceled", reason: "replaced", replaced_by: after.order_id });
      }
      this.put(after);
      say(`Order ${order.order_id} is now ${after.order_id}: ${after.quantity} at ${after.price}.`);
    });
    this.stopEditing();
  }

  async cancel(order) {
    await this.told(async () => {
      this.put(await call("DELETE", `/orders/${order.order_id}`, undefined, { prefer: "wait=1" }));
      say(`Order ${order.order_id} is canceled.`);
    });
  }

  async cancelAll() {
    await this.told(async () => {
      const { orders } = await call("DELETE", "/orders", undefined, { prefer: "wait=2" });
      orders.forEach((order) => this.put(order));
      say(`${orders.length} orders are canceled.`);
    });
  }
}

const sequence = (order) => Number(order.order_id.split("-").at(-1));

function merged(some, others) {
  const found = new Map();
  for (const each of [...others, ...some]) found.set(`${each.trade_id} ${each.side} ${each.liquidity}`, each);
  return [...found.values()].sort((one, other) => (one.executed_at < other.executed_at ? 1 : -1)).slice(0, LATEST);
}

function choose(tabs, chosen) {
  for (const tab of tabs) {
    const isChosen = tab === chosen;
    tab.setAttribute("aria-selected", String(isChosen));
    tab.tabIndex = isChosen ? 0 : -1;
    by(tab.getAttribute("aria-controls")).hidden = !isChosen;
  }
  return chosen;
}

function fill(id, lines) {
  by(id).tBodies[0].replaceChildren(...lines);
}
