/** The admin API: requests, and errors with the words that the server gave them. */

/** Fires `loggedout` when a login is over. */
export const session = new EventTarget();

export class ApiError extends Error {
  constructor(status, error) {
    super(error?.message ?? '');
    this.status = status;
    this.code = error?.code ?? 'unreachable';
    this.field = error?.field ?? null;
    this.requestId = error?.requestId ?? null;
  }
}

/** @param {string} path below /admin/api/ */
export function get(path) {
  return request('GET', path);
}

/** @param {string} path below /admin/api/ */
export function post(path, body = {}) {
  return request('POST', path, body);
}

async function request(method, path, body) {
  const response = await answer(method, path, body);
  const value = await response.json().catch(() => null);
  if (response.ok && value) return value;
  const error = new ApiError(response.status, value?.error);
  if (response.status === 401 && path !== 'login') session.dispatchEvent(new Event('loggedout'));
  throw error;
}

async function answer(method, path, body) {
  const headers = { 'X-Myna-Admin': '1' };
  if (body) headers['Content-Type'] = 'application/json';
  try {
    return await fetch(`/admin/api/${path}`, { method, headers, body: body && JSON.stringify(body), cache: 'no-store' });
  } catch {
    throw new ApiError(0, null);
  }
}
