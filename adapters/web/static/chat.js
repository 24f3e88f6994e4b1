import { Api, ApiError } from './api.js';
import { Composer } from './composer.js';
import { Conversation } from './conversation.js';
import { h, icon, iconButton, logo, storage, stylesheet } from './dom.js';
import { PrivacyMenu } from './privacy.js';
import { language } from './strings.js';
import * as styles from './styles.js';
import { Transcript } from './transcript.js';

const sheets = [styles.tokens, styles.base, styles.menu, styles.chat].map(stylesheet);

/**
 * `<myna-chat endpoint="" mode="page|panel" lang="" name="">`: one conversation with Myna.
 *
 * Events: `myna:ready`, `myna:chat` (another chat is shown), `myna:activity` (the list of chats may have
 * changed), `myna:message` (something was sent), `myna:reply` (a reply is finished), `myna:close`.
 */
export class MynaChat extends HTMLElement {
  /** Chat to open first. Undefined opens the last one, null a new one. @type {string|null|undefined} */
  initialChat;
  #config = { title: 'Myna', greeting: '', maxMessageChars: 0 };
  #built = false;
  #chat;
  #transcript;
  #composer;
  #alert;
  #notice;
  #noticeKind = null;
  #status;
  #heading;
  #channel = null;
  #t;
  #lang;

  connectedCallback() {
    if (!this.#built) this.#build();
    this.#listen();
    this.#show(this.initialChat === undefined ? storage.get(this.#lastKey) : this.initialChat);
    this.#configure();
  }

  disconnectedCallback() {
    this.#chat?.dispose();
    this.#channel?.close();
    for (const [target, type, fn] of this.#outside) target.removeEventListener(type, fn);
  }

  /** The chat on the screen; null while nothing has been said in it. */
  get chatId() {
    return this.#chat.saved || this.#chat.messages.length ? this.#chat.id : null;
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

  #build() {
    this.#built = true;
    const { lang, t } = language(this.getAttribute('lang'));
    this.#lang = lang;
    this.#t = t;
    this.api = new Api(this.getAttribute('endpoint') ?? '');
    this.#makeParts();
    const root = this.attachShadow({ mode: 'open', delegatesFocus: true });
    root.adoptedStyleSheets = sheets;
    const panel = this.getAttribute('mode') === 'panel';
    root.append(h('div', { class: `chat ${panel ? 'panel' : 'page'}`, lang },
      ...(panel ? [this.#makeHeader()] : []),
      this.#transcript.element, this.#notice, this.#composer.element, this.#status));
  }

  #makeParts() {
    const t = this.#t;
    this.#heading = h('h2', {}, this.name);
    this.#status = h('p', { class: 'sr', role: 'status' });
    this.#alert = h('p', { role: 'alert' });
    this.#notice = h('div', {}, this.#alert);
    this.#composer = new Composer({
      t,
      onSend: (text, origin) => this.#send(text, origin),
      onStop: () => this.#stop(),
      onEditLast: () => this.#editLast(),
    });
    this.#transcript = new Transcript({
      t,
      lang: this.#lang,
      name: () => this.name,
      onRetry: () => this.#regenerate(),
      onEdit: () => this.#editLast(),
      onCopied: () => this.#announce(t('copied')),
      onVote: (message, value, words) => this.#vote(message, value, words),
      onAnnounce: (text) => this.#announce(text),
    });
  }

  #makeHeader() {
    const t = this.#t;
    return h('div', { class: 'header' }, logo(), this.#heading, new PrivacyMenu(t, this).element,
      iconButton('plus', t('newChat'), () => this.newChat()),
      iconButton('close', t('close'), () => this.dispatch('myna:close')));
  }

  async #configure() {
    this.#transcript.greeting = this.#t('greeting');
    try {
      this.#config = await this.api.config();
    } catch {
      return; // The chat works without it, and the first call says what is wrong.
    }
    const { greeting, maxMessageChars } = this.#config;
    this.#heading.textContent = this.name;
    this.#transcript.greeting = greeting || this.#t('greeting');
    this.#composer.limit = maxMessageChars;
    this.dispatch('myna:ready', { name: this.name });
  }

  // --- the world outside ---

  #outside = [
    [window, 'focus', () => this.#catchUp()],
    [document, 'visibilitychange', () => this.#catchUp()],
    [window, 'offline', () => this.#tell('offline', this.#t('offline'))],
    [window, 'online', () => this.#clearNotice('offline')],
  ];

  #listen() {
    for (const [target, type, fn] of this.#outside) target.addEventListener(type, fn);
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

  get #lastKey() {
    return `myna:${this.api.origin}:chat`;
  }

  #show(id) {
    this.#chat?.dispose();
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
    this.#chat = chat;
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

  #notLoaded(error) {
    if (error.status !== 404) {
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

  #finished(reply) {
    const text = this.#transcript.plainText(reply);
    const note = { stopped: 'stopped', failed: 'failed', refused: 'refused' }[reply.state];
    const spoken = [text, note && this.#t(note)].filter(Boolean).join(' ');
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

  #unsent(unsent) {
    this.#composer.restore(unsent);
    this.#failed(unsent.error, this.#t('unsent'), () => this.#composer.submit());
  }

  #connection(up) {
    if (up) this.#clearNotice('connection');
    else this.#tell('connection', this.#t('reconnecting'));
  }

  #failed(error, what, again) {
    this.#tell('failed', this.#explain(error, what), again);
  }

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
