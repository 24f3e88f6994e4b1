/** Where a message is written: text, a mention by one press, names of files; a draft for each place. */

import { h, icon, tool } from './dom.js';

const TALLEST = 180;

export class Composer {
  /** @param {(text: string, files: string[]) => void} send */
  constructor(send) {
    this.send = send;
    this.place = '';
    /** @type {Map<string, string>} */
    this.drafts = new Map();
    /** @type {string[]} */
    this.files = [];
    this.area = h('textarea', { rows: '1', oninput: () => this.fit(), onkeydown: (event) => this.press(event) });
    this.chips = h('div', { class: 'chips' });
    this.picker = h('input', { type: 'file', multiple: true, hidden: true, onchange: () => this.attach() });
    this.element = h('form', { class: 'composer', onsubmit: (event) => this.submit(event) }, this.area, this.chips,
      this.picker,
      h('div', { class: 'composer-tools' },
        tool('@', 'Mention Myna', () => this.insert('@Myna ')),
        tool('file', 'Attach a file (its name only)', () => this.picker.click()),
        h('span', { class: 'hint' }, h('b', {}, 'Enter'), ' sends, ', h('b', {}, 'Shift+Enter'), ' begins a line'),
        h('button', { type: 'submit', class: 'send', 'aria-label': 'Send' }, icon('send'))));
  }

  setLabel(words) {
    this.area.placeholder = words;
    this.area.setAttribute('aria-label', words);
  }

  /** Go on with what was written at another place. */
  moveTo(place) {
    if (place === this.place) return;
    this.drafts.set(this.place, this.area.value);
    this.place = place;
    this.area.value = this.drafts.get(place) ?? '';
    this.setFiles([]);
    this.fit();
  }

  insert(text) {
    const { area } = this;
    const before = area.value.slice(0, area.selectionStart);
    area.setRangeText((before && !/\s$/.test(before) ? ' ' : '') + text, area.selectionStart, area.selectionEnd, 'end');
    area.focus();
    this.fit();
  }

  attach() {
    this.setFiles([...this.files, ...[...this.picker.files ?? []].map((one) => one.name)].slice(0, 10));
    this.picker.value = '';
    this.area.focus();
  }

  setFiles(names) {
    this.files = names;
    this.chips.replaceChildren(...names.map((name) => h('span', { class: 'chip' }, name,
      tool('close', `Remove ${name}`, () => this.setFiles(this.files.filter((one) => one !== name))))));
  }

  /** @param {KeyboardEvent} event */
  press(event) {
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
    this.submit(event);
  }

  /** @param {Event} event */
  submit(event) {
    event.preventDefault();
    const text = this.area.value.trim();
    if (!text && !this.files.length) return;
    this.send(text, this.files);
    this.area.value = '';
    this.setFiles([]);
    this.fit();
  }

  fit() {
    this.area.style.height = 'auto';
    this.area.style.height = `${Math.min(this.area.scrollHeight, TALLEST)}px`;
  }
}
