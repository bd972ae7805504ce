// Calls of the REST API. The token is kept in this variable alone.
let token = "";
let loggedOut = () => {};

export const hasToken = () => token !== "";
export const currentToken = () => token;
export const onLogout = (told) => (loggedOut = told);

export class Refused extends Error {
  constructor(status, problem) {
    super(problem.detail ?? problem.title ?? `status ${status}`);
    this.status = status;
    this.errors = problem.errors ?? [];
  }
}

export async function call(method, path, body, headers = {}) {
  const sent = { accept: "application/json", ...headers };
  if (body !== undefined) sent["content-type"] = "application/json";
  if (token) sent.authorization = `Bearer ${token}`;
  const answer = await fetch(path, { method, headers: sent, body: body === undefined ? undefined : JSON.stringify(body) });
  const content = await answer.json();
  if (answer.ok) return content;
  if (answer.status === 401 && token) logout("Your session has ended: log in again.");
  throw new Refused(answer.status, content);
}

export async function login(traderId, apiKey) {
  const given = await call("POST", "/auth/token", { trader_id: traderId, api_key: apiKey });
  token = given.access_token;
  setTimeout(() => logout("Your session has ended: log in again."), given.expires_in * 1000);
}

export function logout(reason) {
  if (!token) return;
  token = "";
  loggedOut(reason);
}
