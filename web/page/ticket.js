// The ticket: it is never written by prices, and an order is sent once, however often its button is pressed.
import { call, hasToken, login, loginByCode } from "./api.js";
import { by, cents, money, say } from "./util.js";

const FAR = 0.05;
const LARGE = 10;
const NAMES = ["price", "quantity", "post_only"];

export class Ticket {
  constructor({ card, best, usual, isLive, placed, loggedIn }) {
    Object.assign(this, { card, best, usual, isLive, placed, loggedIn });
    this.form = by("order");
    this.form.addEventListener("input", () => this.changed());
    this.form.addEventListener("submit", (event) => this.submit(event));
    by("login").addEventListener("submit", (event) => this.login(event));
    void this.useCode();
    addEventListener("hashchange", () => void this.useCode());
    this.changed();
  }

  async login(event) {
    event.preventDefault();
    const fields = new FormData(by("login"));
    by("login-error").textContent = "";
    try {
      await login(fields.get("trader_id"), fields.get("api_key"));
      by("login").elements.api_key.value = "";
      this.show(fields.get("trader_id"));
      this.loggedIn();
    } catch (error) {
      by("login-error").textContent = error.message;
    }
  }

  // A link of `tcgx up` has a code in its fragment. It leaves the address before anything else happens.
  async useCode() {
    const code = new URLSearchParams(location.hash.slice(1)).get("code");
    if (!code) return;
    history.replaceState(null, "", location.pathname + location.search);
    try {
      this.show(await loginByCode(code));
      this.loggedIn();
    } catch (error) {
      by("login-error").textContent = `${error.message}. Log in with an API key.`;
    }
  }

  show(trader) {
    by("login").hidden = hasToken();
    this.form.hidden = !hasToken();
    by("who").textContent = hasToken() ? `trader ${trader}` : "";
    by("leave").hidden = !hasToken();
  }

  pick(price, side) {
    this.form.elements.price.value = money(price);
    if (side) this.form.elements.side.value = side;
    this.changed();
  }

  values() {
    const { side, price, quantity, time_in_force, post_only } = this.form.elements;
    return { side: side.value, price: cents(price.value), quantity: Number(quantity.value), time_in_force: time_in_force.value, post_only: post_only.checked };
  }

  changed() {
    this.name = crypto.randomUUID?.() ?? `page-${Date.now()}-${Math.random().toString(36).slice(2)}`;
    this.confirmed = false;
    this.errors([]);
    this.words();
  }

  words() {
    const { side, price, quantity } = this.values();
    const button = by("send");
    button.className = `primary ${side}`;
    button.textContent = this.isLive() ? (side === "buy" ? "Buy" : "Sell") : "Prices are not live";
    button.disabled = !this.isLive() || Boolean(this.isSending);
    const isWhole = Number.isInteger(quantity) && quantity > 0 && price > 0;
    const total = isWhole ? money(price * quantity) : "";
    const card = this.card() ?? "";
    by("words").textContent = !isWhole
      ? "Fill in price and quantity. Enter on a row of the book takes its price."
      : side === "buy"
        ? `Buy ${quantity} ${card} at ${money(price)} or less: you pay at most ${total}.`
        : `Sell ${quantity} ${card} at ${money(price)} or more: you get at least ${total}.`;
  }

  errors(found) {
    for (const name of NAMES) {
      const error = found.find((each) => each.field === name);
      by(`error-${name}`).textContent = error ? `${name} ${error.rule}` : "";
      this.form.elements[name].setAttribute("aria-invalid", String(Boolean(error)));
    }
    by("error-other").textContent = found.filter((each) => !NAMES.includes(each.field)).map((each) => `${each.field} ${each.rule}`).join("; ");
  }

  // Why an order may be a slip of the hand; empty where nothing says so.
  doubt(values) {
    if (this.isFar(values)) return "More than 5 % through the book";
    const usual = this.usual();
    return usual && values.quantity > LARGE * usual ? "More than 10 times the usual quantity" : "";
  }

  isFar({ side, price }) {
    const { bid, ask } = this.best();
    if (side === "buy") return ask !== undefined && price > ask * (1 + FAR);
    return bid !== undefined && price < bid * (1 - FAR);
  }

  async submit(event) {
    event.preventDefault();
    const values = this.values();
    const wrong = [];
    if (!(values.price > 0)) wrong.push({ field: "price", rule: "must be a price like 5.50" });
    if (!(Number.isInteger(values.quantity) && values.quantity > 0)) wrong.push({ field: "quantity", rule: "must be a whole number from 1" });
    this.errors(wrong);
    if (wrong.length || !this.isLive()) return;
    const doubt = this.doubt(values);
    if (doubt && !this.confirmed) {
      this.confirmed = true;
      by("send").textContent = `${doubt}: send?`;
      return;
    }
    this.isSending = true; // a disabled button keeps Enter from sending, too
    this.words();
    try {
      const body = { card: this.card(), client_order_id: this.name, ...values, price: money(values.price) };
      const order = await call("POST", "/orders", body, { prefer: "wait=1" });
      say(`Order ${order.order_id}: ${order.status.replace("_", " ")}${order.filled_quantity ? `, ${order.filled_quantity} filled at ${order.average_price}` : ""}.`);
      this.placed(order);
      this.changed();
    } catch (error) {
      this.errors(error.errors ?? []);
      if (!error.errors?.length) by("error-other").textContent = error.status ? error.message : "No answer. Send again: the order is placed once.";
    } finally {
      this.isSending = false;
      this.words();
    }
  }
}
