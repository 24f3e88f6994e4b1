import { Api, ApiError, statusOf } from './api.js';
import { Composer } from './composer.js';
import { Conversation } from './conversation.js';
import { h, icon, iconButton, logo, storage, stylesheet } from './dom.js';
import { PrivacyMenu } from './privacy.js';
import { language } from './strings.js';
import * as styles from './styles.js';
import { Transcript } from './transcript.js';

const sheets = [styles.tokens, styles.base, styles.menu, styles.chat].map(stylesheet);

const NO_CONFIG = { title: 'Myna', greeting: '', maxMessageChars: 0 };

/** @typedef {import('./conversation.js').Message} Message */
/** @typedef {ReturnType<typeof language>} Words */
/**
 * What is made in one language.
 * @typedef {object} Parts
 * @property {Composer} composer
 * @property {Transcript} transcript
 * @property {PrivacyMenu} privacy
 * @property {HTMLElement} header  of a panel
 * @property {HTMLElement} frame  all of it
 */

/**
 * `<myna-chat endpoint="" mode="page|panel" lang="" name="">`: one conversation with Myna.
 *
 * Each attribute may change at any time. Another `endpoint` is another server, with chats of its own; another `lang`
 * says everything in other words, and keeps what was written. An element that is moved within the page goes on as it
 * is; one that is taken out stops listening, and shows its chat again when it is put back.
 *
 * Events: `myna:ready` (its name is known, or another), `myna:chat` (another chat is shown), `myna:activity` (the list
 * of chats may have changed), `myna:message` (something was sent), `myna:reply` (a reply is finished), `myna:close`.
 */
export class MynaChat extends HTMLElement {
  static observedAttributes = ['endpoint', 'lang', 'mode', 'name'];

  /** Chat to open first. Undefined opens the last one, null a new one. @type {string|null|undefined} */
  initialChat;
  #config = NO_CONFIG;
  /** What is made on first use: an element that is not in a page yet may have no attributes. @type {Api|null} */
  #api = null;
  /** @type {Words|null} */
  #words = null;
  /** @type {Parts|null} */
  #made = null;
  /** @type {Conversation|null} */
  #shown = null;
  /** Takes the listeners off; null while the element is in no page. @type {AbortController|null} */
  #presence = null;
  /** @type {BroadcastChannel|null} */
  #channel = null;
  #heading = h('h2');
  #status = h('p', { class: 'sr', role: 'status' });
  #alert = h('p', { role: 'alert' });
  #notice = h('div', {}, this.#alert);
  /** @type {string|null} */
  #noticeKind = null;

  connectedCallback() {
    if (this.#presence) this.#transcript.restoreScroll(); // it was moved
    else this.#join();
  }

  disconnectedCallback() {
    // A move is a removal and an insertion in one task.
    queueMicrotask(() => { if (!this.isConnected) this.#leave(); });
  }

  /** @param {string} name @param {string|null} old @param {string|null} value */
  attributeChangedCallback(name, old, value) {
    if (!this.#made || old === value) return;
    if (name === 'endpoint') this.#changeServer();
    else if (name === 'lang') this.#changeLanguage();
    else if (name === 'mode') this.#drawMode();
    else this.#rename();
  }

  get api() {
    this.#api ??= new Api(this.getAttribute('endpoint') ?? '');
    return this.#api;
  }

  /** The chat on the screen; null while nothing has been said in it. */
  get chatId() {
    return this.#shown && (this.#shown.saved || this.#shown.messages.length) ? this.#shown.id : null;
  }

  /** What the assistant is called: the `name` attribute, else the server's title. */
  get name() {
    return this.getAttribute('name') || this.#config.title;
  }

  /** @param {string|null} id null starts a new chat */
  openChat(id) {
    if (id !== null && id === this.#chat.id) return;
    this.#show(id);
    this.dispatch('myna:chat', { id });
    if (matchMedia('(hover: hover)').matches) this.focusInput();
  }

  newChat() {
    this.openChat(null);
    this.focusInput();
  }

  /** Whether Myna may learn from the chat on the screen, and from all. */
  privacy() {
    return this.#chat.privacy();
  }

  /** @param {'chat'|'all'} scope @param {boolean} mayLearn */
  setPrivacy(scope, mayLearn) {
    return this.#chat.setPrivacy(scope, mayLearn);
  }

  focusInput() {
    this.#composer.focus();
  }

  /** Forgets the visitor and every chat of theirs on this device. */
  async reset() {
    this.openChat(null);
    await this.api.forget();
    this.dispatch('myna:activity');
  }

  /** @param {string} type @param {object} [detail] */
  dispatch(type, detail = {}) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  // --- making it ---

  get #t() {
    this.#words ??= language(this.getAttribute('lang'));
    return this.#words.t;
  }

  get #lang() {
    this.#words ??= language(this.getAttribute('lang'));
    return this.#words.lang;
  }

  get #parts() {
    this.#made ??= this.#build();
    return this.#made;
  }

  get #composer() {
    return this.#parts.composer;
  }

  get #transcript() {
    return this.#parts.transcript;
  }

  #build() {
    const parts = this.#makeParts();
    const root = this.shadowRoot ?? this.attachShadow({ mode: 'open', delegatesFocus: true });
    root.adoptedStyleSheets = sheets;
    root.replaceChildren(parts.frame);
    return parts;
  }

  /** @returns {Parts} */
  #makeParts() {
    const [t, lang] = [this.#t, this.#lang];
    const composer = new Composer({
      t,
      onSend: (text, origin) => this.#send(text, origin),
      onStop: () => this.#stop(),
      onEditLast: () => this.#editLast(),
    });
    const transcript = new Transcript({
      t,
      lang,
      name: () => this.name,
      onRetry: () => this.#regenerate(),
      onEdit: () => this.#editLast(),
      onCopied: () => this.#announce(t('copied')),
      onVote: (message, value, words) => this.#vote(message, value, words),
      onAnnounce: (text) => this.#announce(text),
    });
    const privacy = new PrivacyMenu(t, this);
    const header = h('div', { class: 'header' }, logo(), this.#heading, privacy.element,
      iconButton('plus', t('newChat'), () => this.newChat()),
      iconButton('close', t('close'), () => this.dispatch('myna:close')));
    const frame = h('div', { class: 'chat', lang }, transcript.element, this.#notice, composer.element, this.#status);
    return { composer, transcript, privacy, header, frame };
  }

  #drawMode() {
    const { frame, header, privacy } = this.#parts;
    const isPanel = this.getAttribute('mode') === 'panel';
    frame.className = `chat ${isPanel ? 'panel' : 'page'}`;
    if (isPanel) frame.prepend(header);
    else {
      privacy.close();
      header.remove();
    }
  }

  #drawConfig() {
    const { greeting, maxMessageChars } = this.#config;
    this.#transcript.greeting = greeting || this.#t('greeting');
    this.#composer.limit = maxMessageChars;
    this.#heading.textContent = this.name;
  }

  #rename() {
    this.#heading.textContent = this.name;
    this.#transcript.rename();
    this.dispatch('myna:ready', { name: this.name });
  }

  #changeLanguage() {
    const before = this.#parts;
    const hadFocus = before.composer.input.matches(':focus');
    before.privacy.close();
    this.#words = null;
    this.#made = this.#build();
    this.#composer.takeOver(before.composer);
    this.#drawMode();
    this.#drawConfig();
    if (this.#shown) this.#draw();
    this.#transcript.scrollToEnd();
    if (hadFocus) this.focusInput();
  }

  #changeServer() {
    const wasThere = this.#presence !== null;
    this.#leave();
    this.#api = null;
    this.#shown = null;
    this.initialChat = undefined;
    this.#config = NO_CONFIG;
    if (!wasThere) return;
    this.#join();
    this.dispatch('myna:chat', { id: this.chatId });
    this.dispatch('myna:activity');
  }

  async #configure() {
    const { api } = this;
    this.#drawConfig();
    try {
      const config = await api.config();
      if (api !== this.api) return;
      this.#config = config;
    } catch {
      return; // The chat works without it, and the first call says what is wrong.
    }
    this.#drawConfig();
    this.#rename();
  }

  // --- the world outside ---

  #join() {
    this.#presence = new AbortController();
    const { signal } = this.#presence;
    window.addEventListener('focus', () => this.#catchUp(), { signal });
    document.addEventListener('visibilitychange', () => this.#catchUp(), { signal });
    window.addEventListener('offline', () => this.#tell('offline', this.#t('offline')), { signal });
    window.addEventListener('online', () => this.#clearNotice('offline'), { signal });
    this.#openChannel();
    this.#drawMode();
    this.#show(this.#firstChat());
    this.#configure();
  }

  #leave() {
    this.#shown?.dispose();
    this.#channel?.close();
    this.#presence?.abort();
    this.#channel = this.#presence = null;
    this.#made?.privacy.close();
  }

  /** The one that was shown when the element was taken out of the page, else the one that is asked for. */
  #firstChat() {
    if (this.#shown) return this.#shown.saved ? this.#shown.id : null;
    return this.initialChat === undefined ? storage.get(this.#lastKey) : this.initialChat;
  }

  #openChannel() {
    try {
      this.#channel = new BroadcastChannel(`myna:${this.api.origin}`);
    } catch {
      return; // No storage for this page: other tabs catch up on focus.
    }
    this.#channel.onmessage = ({ data }) => {
      this.dispatch('myna:activity');
      if (data === this.#chat.id) this.#catchUp();
    };
  }

  #catchUp() {
    if (document.visibilityState === 'visible' && !this.#chat.busy) this.#chat.sync().catch(() => {});
  }

  #tellOthers() {
    this.#channel?.postMessage(this.#chat.id);
    this.dispatch('myna:activity', { id: this.#chat.id });
  }

  // --- the chat ---

  get #chat() {
    if (!this.#shown) throw new Error('<myna-chat> shows no chat before it is in a page');
    return this.#shown;
  }

  get #lastKey() {
    return `myna:${this.api.origin}:chat`;
  }

  /** @param {string|null} id */
  #show(id) {
    this.#shown?.dispose();
    this.#clearNotice();
    this.#announce('');
    if (this.#composer.editing) this.#composer.cancelEdit();
    const chat = new Conversation(this.api, id, {
      changed: () => this.#draw(),
      accepted: () => this.#accepted(),
      finished: (reply) => this.#finished(reply),
      unsent: (unsent) => this.#unsent(unsent),
      connection: (up) => this.#connection(up),
      failed: (error) => this.#failed(error, this.#t('retryFailed')),
      choiceLost: (error) => this.#failed(error, this.#t('privacyFailed')),
    });
    this.#shown = chat;
    this.#remember();
    this.#draw();
    this.#transcript.scrollToEnd();
    if (id !== null) this.#load();
  }

  #remember() {
    if (this.#chat.saved) storage.set(this.#lastKey, this.#chat.id);
    else storage.remove(this.#lastKey);
  }

  async #load() {
    const chat = this.#chat;
    try {
      await chat.sync();
    } catch (error) {
      if (chat === this.#chat) this.#notLoaded(error);
    }
  }

  /** @param {unknown} error */
  #notLoaded(error) {
    if (statusOf(error) !== 404) {
      this.#failed(error, this.#t('loadFailed'), () => this.#load());
      return;
    }
    this.openChat(null);
    this.#tell('missing', this.#t('missing'));
  }

  #draw() {
    this.#transcript.render(this.#chat);
    this.#composer.busy = this.#chat.busy;
    const arrived = this.#composer.settle((id) => this.#chat.messages.some((message) => message.id === id));
    if (arrived) this.#clearNotice('failed');
  }

  #send(text, origin) {
    this.#clearNotice();
    this.#announce('');
    this.#chat.send(text, origin);
    this.#transcript.scrollToEnd();
    this.dispatch('myna:message', { id: this.#chat.id });
  }

  #accepted() {
    this.#remember();
    this.#tellOthers();
  }

  /** @param {Message} reply */
  #finished(reply) {
    const text = this.#transcript.plainText(reply);
    const note = reply.state && reply.state !== 'answered' ? this.#t(reply.state) : '';
    const spoken = [text, note].filter(Boolean).join(' ');
    this.#announce(this.#t('announce', { name: this.name, text: spoken }));
    this.#tellOthers();
    this.dispatch('myna:reply', { id: this.#chat.id, state: reply.state });
  }

  async #stop() {
    try {
      await this.#chat.stop();
    } catch (error) {
      this.#composer.stopButton.disabled = false;
      this.#failed(error, this.#t('stopFailed'));
    }
  }

  #regenerate() {
    this.#clearNotice();
    this.#announce('');
    this.#chat.regenerate();
    this.#transcript.scrollToEnd();
    if (matchMedia('(hover: hover)').matches) this.focusInput();
  }

  async #vote(message, value, words) {
    this.#announce('');
    const chat = this.#chat;
    try {
      await chat.vote(message, value, words);
    } catch (error) {
      if (chat === this.#chat) this.#failed(error, this.#t('voteFailed'));
      return false;
    }
    this.#clearNotice('failed');
    this.#channel?.postMessage(chat.id);
    return true;
  }

  #editLast() {
    const message = this.#chat.lastOwn;
    if (message && !this.#chat.busy) this.#composer.edit(message);
  }

  // --- what went wrong ---

  /** @param {import('./conversation.js').Unsent} unsent */
  #unsent(unsent) {
    this.#composer.restore(unsent);
    this.#failed(unsent.error, this.#t('unsent'), () => this.#composer.submit());
  }

  #connection(up) {
    if (up) this.#clearNotice('connection');
    else this.#tell('connection', this.#t('reconnecting'));
  }

  /** @param {unknown} error @param {string} what @param {() => void} [again] */
  #failed(error, what, again) {
    this.#tell('failed', this.#explain(error, what), again);
  }

  /** @param {unknown} error @param {string} what */
  #explain(error, what) {
    const t = this.#t;
    if (!(error instanceof ApiError)) return what;
    const busy = error.status === 429 || error.status === 503;
    const wait = error.retryAfter ? t('wait', { n: error.retryAfter }) : '';
    const reference = !busy && error.requestId ? t('reference', { id: error.requestId }) : '';
    const first = busy && what === t('unsent') ? t('busy') : what;
    const detail = error.status === 413 ? t('tooLong') : '';
    return [first, detail, wait, reference].filter(Boolean).join(' ');
  }

  /** @param {string} kind @param {string} text @param {() => void} [again] */
  #tell(kind, text, again) {
    if (this.#noticeKind === kind && this.#alert.textContent === text) return;
    this.#clearNotice();
    this.#noticeKind = kind;
    this.#notice.className = 'notice';
    this.#alert.textContent = text;
    this.#alert.before(icon('alert'));
    if (again) this.#notice.append(this.#retryButton(again));
    this.#notice.append(iconButton('close', this.#t('dismiss'), () => this.#dismiss()));
  }

  #retryButton(again) {
    return h('button', { type: 'button', class: 'link', onclick: () => this.#retry(again) }, this.#t('tryAgain'));
  }

  #retry(again) {
    this.#clearNotice();
    this.focusInput();
    again();
  }

  #dismiss() {
    this.#clearNotice();
    this.focusInput();
  }

  /** @param {string} [kind] only a notice of this kind */
  #clearNotice(kind) {
    if (kind && kind !== this.#noticeKind) return;
    this.#noticeKind = null;
    this.#notice.className = '';
    this.#alert.textContent = '';
    // The alert itself stays: a live region has to be there before its text.
    for (const part of [...this.#notice.children]) if (part !== this.#alert) part.remove();
  }

  #announce(text) {
    this.#status.textContent = text;
  }
}

customElements.define('myna-chat', MynaChat);
