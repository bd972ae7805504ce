// The one WebSocket. It comes back by itself, and says whether what the page shows can be believed.
const PING_MS = 2_000;
const SILENCE_MS = 5_000;
const HIDDEN_SILENCE_MS = 25_000; // timers of a hidden tab are late, and so are its pings; a heartbeat comes every 10 s

export class Stream {
  constructor({ token, message, state }) {
    this.token = token;
    this.message = message;
    this.tellState = state;
    this.channels = new Set();
    this.failures = 0;
    this.silence = 0;
    this.connect();
    setInterval(() => this.send({ op: "ping" }), PING_MS);
    document.addEventListener("visibilitychange", () => this.shown());
    addEventListener("online", () => this.again(0));
  }

  connect() {
    clearTimeout(this.retry);
    const address = new URL("/stream/ws", location.href);
    address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    const socket = (this.socket = new WebSocket(address));
    socket.onopen = () => {
      if (this.token()) this.send({ op: "auth", token: this.token() });
      if (this.channels.size) this.send({ op: "subscribe", channels: [...this.channels], interval: 100 });
    };
    socket.onmessage = (event) => this.take(JSON.parse(event.data));
    socket.onclose = () => socket === this.socket && this.again();
  }

  take(message) {
    if (message.type !== "hello" && message.type !== "bye") this.failures = 0;
    this.heard = performance.now();
    clearTimeout(this.silence);
    this.silence = setTimeout(() => this.look(), SILENCE_MS);
    if (message.type === "bye") {
      if (message.code === "too_many") return this.pause();
      // The first time when the server says; a page that is sent away again and again comes less and less often.
      this.again(this.failures ? undefined : message.reconnect_after_ms || 500);
      return;
    }
    this.message(message);
  }

  // Another tab of the same trader has taken over. This one comes back when somebody looks at it.
  pause() {
    this.drop();
    this.state("paused");
    addEventListener("focus", () => this.again(0), { once: true });
  }

  drop() {
    const socket = this.socket;
    this.socket = null;
    clearTimeout(this.silence);
    clearTimeout(this.retry);
    if (!socket) return;
    socket.onclose = null;
    socket.close();
  }

  look() {
    const silence = performance.now() - (this.heard ?? 0);
    const longest = document.hidden ? HIDDEN_SILENCE_MS : SILENCE_MS;
    if (silence < longest) {
      clearTimeout(this.silence);
      this.silence = setTimeout(() => this.look(), longest - silence);
      return;
    }
    this.state("stale");
    this.again();
  }

  // What was hidden may have slept: it asks, and waits for the answer.
  shown() {
    if (document.hidden || !this.socket) return; // it comes back by itself, or waits to be looked at
    const asked = performance.now();
    this.send({ op: "ping" });
    clearTimeout(this.silence);
    this.silence = setTimeout(() => (this.heard ?? 0) < asked && this.look(), SILENCE_MS);
  }

  again(wait) {
    this.drop();
    this.state("reconnecting");
    const longest = Math.min(30_000, 500 * 2 ** this.failures++);
    this.retry = setTimeout(() => this.connect(), wait ?? longest / 2 + Math.random() * (longest / 2));
  }

  state(name) {
    this.tellState(name);
  }

  send(request) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(request));
  }

  subscribe(channels) {
    for (const channel of channels) this.channels.add(channel);
    this.send({ op: "subscribe", channels, interval: 100 });
  }

  unsubscribe(channels) {
    for (const channel of channels) this.channels.delete(channel);
    this.send({ op: "unsubscribe", channels });
  }

  authenticate() {
    this.send({ op: "auth", token: this.token() });
    this.subscribe(["orders"]);
  }
}
