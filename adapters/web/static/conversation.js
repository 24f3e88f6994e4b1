import { ApiError, DONE, readEvents, statusOf } from './api.js';
import { newId } from './dom.js';

const SEND_RETRIES = 3;
const LONGEST_WAIT_MS = 15_000;

/** @typedef {{value: -1|1, reason: string|null, better: string|null}} Vote */
/** @typedef {{id: string, title: string, url: string|null}} Source  `url` is null where it can't be read from here */

/**
 * @typedef {object} Message
 * @property {string} key   stays the same while the id may change
 * @property {string} id
 * @property {'user'|'assistant'} role
 * @property {string} text  the whole plain text
 * @property {string|null} html  sanitised by the server, for the part before `tail`
 * @property {string} tail  text that came after `html`
 * @property {'answered'|'stopped'|'failed'|'refused'|null} state
 * @property {string|null} problem  what the server said about a failure
 * @property {number} createdAt
 * @property {boolean} live  being streamed
 * @property {boolean} pending  sent, not yet accepted
 * @property {Vote|null} vote  the visitor's own, as it counts
 * @property {Vote|null} storedVote  the one the server has, while others are on their way
 * @property {number} voting  how many are
 * @property {boolean} notice  between the page and Myna itself: the server does not keep it
 * @property {Source[]} sources  what a reply cites
 */

/**
 * @typedef {object} Unsent
 * @property {string} id
 * @property {string} text
 * @property {string|null} replaces  id of the message being edited
 * @property {unknown} error
 */

/**
 * @typedef {object} Listener
 * @property {() => void} changed
 * @property {() => void} accepted  the server has a new message
 * @property {(reply: Message) => void} finished
 * @property {(unsent: Unsent) => void} unsent
 * @property {(connected: boolean) => void} connection
 * @property {(error: unknown) => void} failed
 * @property {(error: unknown) => void} choiceLost  what was said about learning from this chat is not stored
 */

/**
 * One stream of the server's.
 * @typedef {object} Reader
 * @property {number} order  the later one was opened later
 * @property {AbortController} control
 * @property {Message|null} reply  the one it is at
 * @property {boolean} ended  the reply is
 * @property {boolean} fresh  no new word of the reply has come yet
 * @property {boolean} notice  it answers a line that steers Myna
 */

/**
 * One chat: its messages, and the streams that bring new ones. No DOM.
 *
 * The reply belongs to the server, not to a connection, so several readers may see the same one:
 * the reader that opened last owns it and the others step back.
 */
export class Conversation {
  /** @type {Message[]} */
  messages = [];
  #api;
  #listener;
  /** @type {Set<Reader>} */
  #readers = new Set();
  /** Which reader brings the reply with this id. @type {Map<string, Reader>} */
  #owners = new Map();
  /** @type {Set<string>} */
  #finished = new Set();
  #opened = 0;
  #epoch = 0;
  #resuming = false;
  #disposed = false;
  #votes = Promise.resolve();
  /** What was said of this chat, and the server does not know yet. @type {boolean|null} */
  #mayLearn = null;
  #choices = Promise.resolve();

  /**
   * @param {import('./api.js').Api} api
   * @param {string|null} id null starts a new chat
   * @param {Listener} listener
   */
  constructor(api, id, listener) {
    this.#api = api;
    this.#listener = listener;
    this.id = id ?? newId();
    this.saved = id !== null; // the server knows it
    this.loaded = false;
  }

  /** True while a reply is awaited or arriving. */
  get busy() {
    return this.#readers.size > 0 || this.#resuming;
  }

  /** The last finished reply, when it is the last message. */
  get lastReply() {
    const last = this.messages.at(-1);
    return last?.role === 'assistant' && !last.live && !last.notice ? last : null;
  }

  /** The visitor's last message that the server has. */
  get lastOwn() {
    return this.messages.findLast((message) => message.role === 'user' && !message.pending && !message.notice) ?? null;
  }

  /** Stops listening. The server goes on with its reply. */
  dispose() {
    this.#disposed = true;
    for (const reader of this.#readers) reader.control.abort();
  }

  /**
   * @param {string} text
   * @param {{id?: string, replaces?: string|null}} [options] the id of an unsent message sends it once only
   */
  async send(text, { id = newId(), replaces = null } = {}) {
    const message = makeMessage({ id, role: 'user', text, pending: true });
    if (replaces) this.#cutFrom(replaces);
    if (!this.#find(id)) this.messages.push(message);
    const body = { id: this.id, trigger: 'submit-message', messages: [toWire(message)] };
    if (replaces) body.messageId = replaces;
    try {
      await this.#post(body, SEND_RETRIES, (notice) => { Object.assign(message, { notice, pending: false }); });
    } catch (error) {
      await this.#takeBack(message, replaces, error);
    }
  }

  /** Asks for another reply in place of the last one. */
  async regenerate() {
    const reply = this.lastReply;
    const question = this.lastOwn;
    if (!reply || !question || this.busy) return;
    this.#cutFrom(reply.id);
    this.#finished.delete(reply.id);
    const body = {
      id: this.id, trigger: 'regenerate-message', messageId: reply.id, messages: [toWire(question)],
    };
    try {
      await this.#post(body, 0, () => {});
    } catch (error) {
      this.#listener.failed(error);
      await this.sync().catch(() => {});
    }
  }

  async stop() {
    const live = this.messages.findLast((message) => message.live);
    const { stopped } = await this.#api.stop(this.id, live?.id ?? null);
    if (!stopped) await this.sync();
  }

  /**
   * Says what a reply was worth; 0 takes it back. Shown at once; one after the other, so that the last one counts.
   * @param {Message} message
   * @param {-1|0|1} value
   * @param {{reason?: string, better?: string}} words
   */
  vote(message, value, words = {}) {
    if (!message.voting) message.storedVote = message.vote;
    message.vote = value ? { reason: null, better: null, ...words, value } : null;
    message.voting += 1;
    this.#changed();
    const stored = this.#votes.then(() => this.#storeVote(message, { replyId: message.id, value, ...words }));
    this.#votes = stored.catch(() => {});
    return stored;
  }

  async #storeVote(message, vote) {
    try {
      const answer = await this.#insist(() => this.#api.vote(this.id, vote), SEND_RETRIES);
      message.storedVote = answer.vote;
    } finally {
      message.voting -= 1;
      if (!message.voting) message.vote = message.storedVote;
      this.#changed();
    }
  }

  /** Whether Myna may learn from this chat, and from all of the visitor's. */
  async privacy() {
    const before = this.#mayLearn;
    const found = await this.#api.privacy(this.saved ? this.id : null);
    const unsent = this.#mayLearn ?? before;
    return unsent === null ? found : { ...found, thisChat: unsent, mayLearn: found.allChats !== false && unsent };
  }

  /** One choice after the other, so that the last one counts. @param {'chat'|'all'} scope @param {boolean} mayLearn */
  setPrivacy(scope, mayLearn) {
    if (scope === 'chat') this.#mayLearn = mayLearn;
    const stored = this.#choices.then(async () => {
      if (scope === 'all') await this.#api.setPrivacy(null, mayLearn);
      else await this.#tellChoice();
      return this.privacy();
    });
    this.#choices = stored.catch(() => {});
    return stored;
  }

  async #tellChoice() {
    const choice = this.#mayLearn;
    if (choice === null || !this.saved) return;
    try {
      await this.#insist(() => this.#api.setPrivacy(this.id, choice), SEND_RETRIES);
    } finally {
      this.#noteTold(choice);
    }
  }

  // What was said meanwhile is still to be told.
  #noteTold(choice) {
    if (this.#mayLearn === choice) this.#mayLearn = null;
  }

  /** Loads the history and joins a running reply. */
  async sync() {
    if (this.saved && !this.#disposed && await this.#load() && !this.busy) this.#resume();
  }

  /** @returns {Promise<boolean>} whether a reply is running */
  async #load() {
    const epoch = this.#epoch;
    const history = await this.#api.chat(this.id);
    // Something was sent meanwhile: this history is older than the screen.
    if (epoch !== this.#epoch || this.#disposed) return false;
    this.loaded = true;
    this.#merge(history.messages);
    this.#changed();
    return history.running;
  }

  #changed() {
    if (!this.#disposed) this.#listener.changed();
  }

  #find(id) {
    return this.messages.find((message) => message.id === id);
  }

  #drop(message) {
    this.messages = this.messages.filter((other) => other !== message);
  }

  #cutFrom(id) {
    const index = this.messages.findIndex((message) => message.id === id);
    if (index >= 0) this.messages.length = index;
  }

  // --- sending ---

  async #post(body, retries, accepted) {
    this.#epoch += 1;
    const reader = this.#open();
    const mayLearn = this.#mayLearn;
    this.#changed();
    let complete;
    try {
      const sent = mayLearn === null ? body : { ...body, mayLearn }; // stored with the message, or not at all
      const response = await this.#insist(() => this.#api.send(sent), retries);
      // An answer to a line that steers Myna: the server keeps neither.
      reader.notice = response.headers.has('x-myna-notice');
      accepted(reader.notice);
      if (!reader.notice) {
        this.saved = true;
        this.#noteTold(mayLearn);
        this.#choices = this.#choices.then(() => this.#tellChoice()).catch((error) => this.#listener.choiceLost(error));
      }
      this.#changed();
      if (!this.#disposed) this.#listener.accepted();
      complete = await this.#follow(reader, response);
    } finally {
      this.#close(reader);
    }
    await (complete ? this.#settle() : this.#resume());
  }

  // Safe to repeat: the server knows a message by its id.
  async #insist(request, retries) {
    for (let attempt = 0; ; attempt += 1) {
      try {
        const response = await request();
        this.#connected(true);
        return response;
      } catch (error) {
        if (error instanceof ApiError || attempt >= retries) throw error;
        this.#connected(false);
        await backoff(attempt);
      }
    }
  }

  async #takeBack(message, replaces, error) {
    this.#drop(message);
    if (this.#disposed) return;
    this.#listener.unsent({ id: message.id, text: message.text, replaces, error });
    this.#changed();
    if (replaces) await this.sync().catch(() => {});
  }

  #connected(yes) {
    if (!this.#disposed) this.#listener.connection(yes);
  }

  // --- streams ---

  /** @returns {Reader} */
  #open() {
    this.#opened += 1;
    const control = new AbortController();
    const reader = { order: this.#opened, control, reply: null, ended: false, fresh: true, notice: false };
    this.#readers.add(reader);
    return reader;
  }

  #close(reader) {
    this.#readers.delete(reader);
    for (const [id, owner] of this.#owners) if (owner === reader) this.#owners.delete(id);
    this.#changed();
  }

  /** @returns {Promise<boolean>} whether nothing more is to be expected from this reply */
  async #follow(reader, response) {
    if (this.#disposed) reader.control.abort();
    let done = false;
    try {
      for await (const part of readEvents(response.body, reader.control.signal)) {
        done = part === DONE;
        if (done || reader.control.signal.aborted) break;
        // Aborted for any other reason, the reply goes on elsewhere: join it there.
        if (part.type === 'abort' && part.reason !== 'stopped') return false;
        this.#apply(reader, part);
        this.#changed();
      }
    } catch (error) {
      console.debug('myna: the stream broke', error);
    }
    if (reader.control.signal.aborted) return true;
    const complete = done || reader.ended;
    if (complete) this.#finish(reader);
    return complete;
  }

  #apply(reader, part) {
    const { reply } = reader;
    if (part.type === 'start') this.#start(reader, part);
    if (part.type === 'start' || !reply) return;
    if (part.type === 'text-delta') this.#append(reader, part.delta);
    else if (part.type === 'data-html') this.#render(reader, part.data);
    else if (isSource(part)) cite(reply, toSource(part));
    else if (part.type === 'abort') this.#end(reader, 'stopped');
    else if (part.type === 'finish') this.#end(reader, part.messageMetadata?.state ?? reply.state ?? 'answered');
    else if (part.type === 'error') {
      reply.problem = part.errorText;
      this.#end(reader, 'failed');
    }
  }

  #start(reader, { messageId }) {
    this.#leave(reader, messageId);
    const owner = this.#owners.get(messageId);
    if (owner && owner !== reader) {
      const late = owner.order > reader.order ? reader : owner;
      late.control.abort();
      if (late === reader) return;
    }
    this.#owners.set(messageId, reader);
    reader.reply = this.#find(messageId) ?? this.#addReply(messageId);
    reader.reply.live = true;
    reader.reply.notice = reader.notice;
    reader.ended = false;
    reader.fresh = true;
  }

  // The reply before this one was either finished (keep it) or given up for this one (drop it).
  #leave(reader, nextId) {
    const { reply } = reader;
    if (!reply || reply.id === nextId) return;
    if (reader.ended && reply.state !== 'stopped') this.#finish(reader);
    else this.#drop(reply);
    this.#owners.delete(reply.id);
    reader.reply = null;
  }

  #addReply(id) {
    const reply = makeMessage({ id, role: 'assistant' });
    this.messages.push(reply);
    return reply;
  }

  // A replay starts over. What is on the screen stays until the first new words replace it.
  #refresh(reader) {
    if (!reader.fresh) return;
    reader.fresh = false;
    Object.assign(reader.reply, { text: '', html: null, tail: '', state: null, problem: null, sources: [] });
  }

  #append(reader, delta) {
    this.#refresh(reader);
    reader.reply.text += delta;
    reader.reply.tail += delta;
  }

  #render(reader, { html, tail }) {
    const { text } = reader.reply;
    this.#refresh(reader);
    reader.reply.text ||= text;
    reader.reply.html = html;
    reader.reply.tail = tail;
  }

  #end(reader, state) {
    reader.reply.state = state;
    reader.ended = true;
  }

  #finish(reader) {
    const { reply } = reader;
    if (!reply) return;
    reply.live = false;
    // It ended without a word about its fate: another reader brings the reply that replaces it.
    if (!reply.state && this.#readers.size > 1) this.#drop(reply);
    this.#changed();
    if (this.#finished.has(reply.id) || this.#disposed || !reply.state) return;
    this.#finished.add(reply.id);
    this.#listener.finished(reply);
  }

  async #settle() {
    if (this.#readers.size === 0) await this.sync().catch(() => {});
  }

  async #resume() {
    if (this.#resuming || this.#disposed) return;
    this.#resuming = true;
    this.#changed();
    for (let attempt = 0; !await this.#rejoined(); attempt += 1) await backoff(attempt);
    this.#resuming = false;
    this.#changed();
  }

  /** @returns {Promise<boolean>} whether there is no more reply to wait for */
  async #rejoined() {
    if (this.#disposed) return true;
    try {
      const response = await this.#api.stream(this.id);
      this.#connected(true);
      return (response.status === 204 || await this.#replay(response)) && !await this.#load();
    } catch (error) {
      const isGone = statusOf(error) === 404;
      if (!(error instanceof ApiError)) this.#connected(false);
      else if (isGone) this.#listener.failed(error);
      return isGone;
    }
  }

  async #replay(response) {
    const reader = this.#open();
    try {
      return await this.#follow(reader, response);
    } finally {
      this.#close(reader);
    }
  }

  // --- history ---

  #merge(wires) {
    const ids = new Set(wires.map((wire) => wire.id));
    const shown = this.messages;
    const old = shown.filter((message) => !message.notice);
    const merged = wires.map((wire, index) => {
      const known = this.#find(wire.id) ?? adoptable(old[index], wire, ids);
      return known?.live && this.#owners.has(known.id) ? known : fromWire(wire, known);
    });
    const waiting = old.filter((message) => !merged.includes(message)
      && (message.pending || (message.live && this.#owners.has(message.id))));
    this.messages = [...merged, ...waiting];
    for (const notice of shown.filter((message) => message.notice)) {
      const before = shown.slice(0, shown.indexOf(notice)).findLast((message) => this.messages.includes(message));
      this.messages.splice(before ? this.messages.indexOf(before) + 1 : 0, 0, notice);
    }
  }
}

/** @param {Partial<Message>} fields @returns {Message} */
function makeMessage(fields) {
  return {
    key: newId(), id: '', role: 'assistant', text: '', html: null, tail: '', state: null, problem: null,
    createdAt: Date.now(), live: false, pending: false, vote: null, storedVote: null, voting: 0, notice: false,
    sources: [],
    ...fields,
  };
}

// The server may know a message under another id than the stream named.
function adoptable(local, wire, ids) {
  return local && local.role === wire.role && !ids.has(local.id) && !local.pending ? local : undefined;
}

function fromWire(wire, known) {
  const text = wire.parts.filter((part) => part.type === 'text').map((part) => part.text).join('\n\n');
  const html = wire.html ?? null;
  return Object.assign(known ?? makeMessage({}), {
    id: wire.id,
    role: wire.role,
    text,
    html,
    tail: html === null ? text : '',
    sources: wire.parts.filter(isSource).map(toSource),
    state: wire.metadata?.state ?? null,
    createdAt: wire.metadata?.createdAt ?? Date.now(),
    vote: known?.voting ? known.vote : wire.metadata?.vote ?? null,
    live: false,
    pending: false,
  });
}

function isSource({ type }) {
  return type === 'source-url' || type === 'source-document';
}

/** @param {Message} reply @param {Source} source */
function cite(reply, source) {
  reply.sources = [...reply.sources.filter(({ id }) => id !== source.id), source];
}

/** @returns {Source} */
function toSource({ sourceId, title, url }) {
  return { id: sourceId, title, url: url ?? null };
}

function toWire({ id, role, text }) {
  return { id, role, parts: [{ type: 'text', text }] };
}

/** Waits longer each time, but no longer than until the network is back. @returns {Promise<void>} */
function backoff(attempt) {
  const ms = Math.min(500 * 2 ** attempt, LONGEST_WAIT_MS) * (0.75 + Math.random() / 2);
  return new Promise((resolve) => {
    const finish = () => {
      clearTimeout(timer);
      removeEventListener('online', finish);
      resolve();
    };
    const timer = setTimeout(finish, ms);
    addEventListener('online', finish);
  });
}
