import { storage } from './dom.js';

/** No byte for this long means a dead connection: the server sends a comment every 15 seconds. */
const SILENCE_MS = 45_000;

/** Marks the regular end of a stream. */
export const DONE = Symbol('done');

/** An answer of the server that says no. */
export class ApiError extends Error {
  /**
   * @param {number} status
   * @param {{code?: string, message?: string, requestId?: string}} detail
   * @param {number|null} retryAfter seconds
   */
  constructor(status, detail, retryAfter) {
    super(detail.message ?? `HTTP ${status}`);
    this.status = status;
    this.code = detail.code ?? null;
    this.requestId = detail.requestId ?? null;
    this.retryAfter = retryAfter;
  }
}

/** The status of a refusal; 0 where no server answered. @param {unknown} error */
export function statusOf(error) {
  return error instanceof ApiError ? error.status : 0;
}

/** @param {Response} response */
async function toError(response) {
  const body = await response.json().catch(() => ({}));
  const seconds = Number.parseInt(response.headers.get('retry-after') ?? '', 10);
  return new ApiError(response.status, body.error ?? {}, Number.isNaN(seconds) ? null : seconds);
}

/** The HTTP side of Myna, for one visitor. */
export class Api {
  #base;
  #foreign;
  #tokenKey;
  /** @type {Promise<void>|null} */
  #visitor = null;

  /** @param {string} endpoint origin of the server; empty for the page's own */
  constructor(endpoint) {
    const url = new URL(endpoint || '/', location.href);
    this.origin = url.origin;
    this.#base = url.href.replace(/\/+$/, '');
    this.#foreign = url.origin !== location.origin;
    this.#tokenKey = `myna:${url.origin}:token`;
  }

  config() {
    return this.#fetch('GET', '/api/config').then(readJson);
  }

  chats() {
    return this.#call('GET', '/api/chats').then(readJson);
  }

  /** @param {string} id */
  chat(id) {
    return this.#call('GET', `/api/chat/${encodeURIComponent(id)}`).then(readJson);
  }

  /** Sends a message or asks for another reply. @returns {Promise<Response>} an event stream */
  send(body) {
    return this.#call('POST', '/api/chat?html=1', body);
  }

  /** The running reply from its start; status 204 when there is none. @param {string} id */
  stream(id) {
    return this.#call('GET', `/api/chat/${encodeURIComponent(id)}/stream?html=1`);
  }

  /** @param {string} id @param {string|null} streamId */
  stop(id, streamId) {
    return this.#call('POST', `/api/chat/${encodeURIComponent(id)}/stop`, { streamId }).then(readJson);
  }

  /**
   * Safe to repeat.
   * @param {string} id
   * @param {{replyId: string, value: -1|0|1, reason?: string, better?: string}} vote
   */
  vote(id, vote) {
    return this.#call('POST', `/api/chat/${encodeURIComponent(id)}/votes`, vote).then(readJson);
  }

  /** @param {string|null} id a chat; null for what holds for all of them */
  privacy(id) {
    return this.#call('GET', privacyPath(id)).then(readJson);
  }

  /** @param {string|null} id @param {boolean} mayLearn */
  setPrivacy(id, mayLearn) {
    return this.#call('POST', privacyPath(id), { mayLearn }).then(readJson);
  }

  /** The next call comes from a new visitor. */
  forget() {
    this.#unknown();
    return this.#known();
  }

  async #call(method, path, body) {
    await this.#known();
    const visitor = this.#visitor;
    try {
      return await this.#fetch(method, path, body);
    } catch (error) {
      if (statusOf(error) !== 401) throw error;
    }
    if (visitor === this.#visitor) this.#unknown();
    await this.#known();
    return this.#fetch(method, path, body);
  }

  #unknown() {
    storage.remove(this.#tokenKey);
    this.#visitor = null;
  }

  // Shared, so that the calls made together at the start make one visitor.
  #known() {
    if (this.#foreign && storage.get(this.#tokenKey)) return Promise.resolve();
    this.#visitor ??= this.#introduce().catch((error) => {
      this.#visitor = null;
      throw error;
    });
    return this.#visitor;
  }

  async #introduce() {
    const { token } = await readJson(await this.#fetch('POST', '/api/visitor', {}));
    if (this.#foreign && token) storage.set(this.#tokenKey, token);
  }

  async #fetch(method, path, body) {
    const response = await fetch(this.#base + path, {
      method,
      headers: this.#headers(body),
      body: body === undefined ? undefined : JSON.stringify(body),
      credentials: this.#foreign ? 'omit' : 'same-origin',
      cache: 'no-store',
    });
    if (!response.ok) throw await toError(response);
    return response;
  }

  #headers(body) {
    const headers = {};
    const token = this.#foreign ? storage.get(this.#tokenKey) : null;
    if (body !== undefined) headers['content-type'] = 'application/json';
    if (token) headers.authorization = `Bearer ${token}`;
    return headers;
  }
}

function privacyPath(id) {
  return id === null ? '/api/privacy' : `/api/chat/${encodeURIComponent(id)}/privacy`;
}

function readJson(response) {
  return response.json();
}

/**
 * Reads server-sent events: yields each JSON payload, then DONE at the regular end.
 * A stream that breaks ends without DONE, or throws.
 * @param {ReadableStream<Uint8Array>} body
 * @param {AbortSignal} signal
 */
export async function* readEvents(body, signal) {
  const decoder = /** @type {ReadableWritablePair<string, Uint8Array>} */ (new TextDecoderStream());
  const reader = body.pipeThrough(decoder).getReader();
  const cancel = () => reader.cancel().catch(() => {});
  signal.addEventListener('abort', cancel, { once: true });
  if (signal.aborted) cancel();
  let buffer = '';
  try {
    for (;;) {
      const { done, value } = await beforeSilence(reader.read());
      if (done) return;
      const blocks = (buffer + value).split(/\r?\n\r?\n/);
      buffer = blocks.pop() ?? '';
      for (const block of blocks) yield* payload(block);
    }
  } finally {
    signal.removeEventListener('abort', cancel);
    cancel();
  }
}

function* payload(block) {
  const data = block.split(/\r?\n/).filter((line) => line.startsWith('data:'))
    .map((line) => line.slice(5).trimStart()).join('\n');
  if (!data) return;
  yield data === '[DONE]' ? DONE : JSON.parse(data);
}

function beforeSilence(promise) {
  let timer;
  const silence = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error('the stream went silent')), SILENCE_MS);
  });
  return Promise.race([promise, silence]).finally(() => clearTimeout(timer));
}
