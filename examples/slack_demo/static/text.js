/**
 * Formatted text as elements: the bot's Markdown, and Slack's own markup (`mrkdwn`) that people and notices use.
 * Only what chats need of either; what is not understood stays as it was written.
 */

import { h } from './dom.js';

/** @typedef {(found: Record<string, string>, names: string[]) => Node} Make  an element for what a pattern has found */
/** @typedef {[string, Make]} Rule */

/** @type {Rule} */
const CODE = ['(`+)(?<code>.+?)\\1', (found) => h('code', {}, found.code)];
/** @type {Rule} */
const URL = ['(?<url>https?://[^\\s<>)]+[^\\s<>).,:;!?])', (found) => link(found.url, found.url)];
/** @type {Record<string, Rule[]>} */
const INLINE = {
  markdown: [
    CODE,
    ['\\[(?<label>[^\\]]+)\\]\\((?<href>https?://[^\\s)]+)\\)', (found) => link(found.href, found.label)],
    URL,
    ['\\*\\*(?<bold>\\S(?:.*?\\S)??)\\*\\*', (found, names) => h('strong', {}, inline(found.bold, 'markdown', names))],
    ['(?<![\\w*])\\*(?<italic>[^\\s*](?:[^*]*?[^\\s*])??)\\*(?![\\w*])',
      (found, names) => h('em', {}, inline(found.italic, 'markdown', names))],
    ['~~(?<struck>\\S(?:.*?\\S)??)~~', (found, names) => h('s', {}, inline(found.struck, 'markdown', names))],
  ],
  mrkdwn: [
    CODE,
    URL,
    ['(?<![\\w*])\\*(?<bold>[^\\s*](?:[^*]*?[^\\s*])??)\\*(?![\\w*])',
      (found, names) => h('strong', {}, inline(found.bold, 'mrkdwn', names))],
    ['(?<![\\w~])~(?<struck>[^\\s~](?:[^~]*?[^\\s~])??)~(?![\\w~])',
      (found, names) => h('s', {}, inline(found.struck, 'mrkdwn', names))],
  ],
};
const ITALIC = '(?<![\\w_])_(?<under>[^\\s_](?:[^_]*?[^\\s_])??)_(?![\\w_])';

function link(href, label) {
  return h('a', { href, target: '_blank', rel: 'noopener noreferrer' }, label);
}

/** @param {string} dialect @param {string[]} names @returns {Rule[]} */
function rulesOf(dialect, names) {
  /** @type {Rule} */
  const italic = [ITALIC, (found) => h('em', {}, inline(found.under, dialect, names))];
  const escaped = names.map((name) => name.replace(/[^\w]/g, '\\$&')).join('|');
  /** @type {Rule} */
  const mention = [`(?<![\\w@])@(?<name>${escaped})\\b`, (found) => h('span', { class: 'mention' }, `@${found.name}`)];
  return [...INLINE[dialect], italic, mention];
}

/**
 * One line or paragraph, with what is marked in it.
 * @param {string} text
 * @param {string} dialect
 * @param {string[]} names
 */
function inline(text, dialect, names) {
  const done = document.createDocumentFragment();
  const rules = rulesOf(dialect, names).map(([pattern, make]) => ({ pattern: new RegExp(pattern, 'i'), make }));
  let rest = text;
  while (rest) {
    /** @type {{found: RegExpExecArray, make: Make}|null} */
    let first = null;
    for (const { pattern, make } of rules) {
      const found = pattern.exec(rest);
      if (found && (!first || found.index < first.found.index)) first = { found, make };
    }
    if (!first) break;
    const { found, make } = first;
    done.append(rest.slice(0, found.index), make(found.groups ?? {}, names));
    rest = rest.slice(found.index + found[0].length);
  }
  done.append(rest);
  return done;
}

/** @type {[string, RegExp][]} */
const STARTS = [
  ['fence', /^ {0,3}(?<fence>```+|~~~+)/],
  ['heading', /^#{1,6} +(?<text>.*?)#*$/],
  ['bullet', /^ {0,3}[-*+] +(?<text>.*)$/],
  ['number', /^ {0,3}(?<number>\d{1,4})[.)] +(?<text>.*)$/],
  ['quote', /^> ?(?<text>.*)$/],
  ['blank', /^\s*$/],
];

/**
 * @param {string} line
 * @returns {{kind: string, found: Record<string, string>}} what it begins, and the parts of that
 */
function startOf(line) {
  for (const [kind, pattern] of STARTS) {
    const found = pattern.exec(line);
    if (found) return { kind, found: found.groups ?? {} };
  }
  return { kind: 'text', found: { text: line } };
}

/**
 * @param {string} text
 * @param {'markdown'|'mrkdwn'} dialect
 * @param {string[]} names of people who may be mentioned
 */
export function formatted(text, dialect, names) {
  const done = document.createDocumentFragment();
  const lines = text.split('\n');
  while (lines.length) done.append(nextBlock(lines, dialect, names));
  return done;
}

/** Takes the lines of one block away, and gives its element. @param {string[]} lines */
function nextBlock(lines, dialect, names) {
  const { kind, found } = startOf(lines[0]);
  if (kind === 'blank') {
    lines.shift();
    return '';
  }
  if (kind === 'fence') return codeBlock(lines, found.fence);
  if (kind === 'heading') {
    lines.shift();
    return h('p', { class: 'heading' }, inline(found.text, dialect, names));
  }
  const taken = [];
  while (lines.length && startOf(lines[0]).kind === kind) {
    taken.push(startOf(lines[0]).found.text);
    lines.shift();
  }
  if (kind === 'bullet' || kind === 'number') {
    const items = taken.map((one) => h('li', {}, inline(one, dialect, names)));
    return kind === 'bullet' ? h('ul', {}, ...items) : h('ol', { start: Number.parseInt(found.number, 10) }, ...items);
  }
  const shown = taken.flatMap((one, place) => (place ? [h('br'), inline(one, dialect, names)]
    : [inline(one, dialect, names)]));
  return h(kind === 'quote' ? 'blockquote' : 'p', {}, ...shown);
}

/** Until its fence, or to the end of what has come so far. */
function codeBlock(lines, fence) {
  lines.shift();
  const code = [];
  while (lines.length && !lines[0].trim().startsWith(fence)) code.push(lines.shift());
  lines.shift();
  return h('pre', {}, h('code', {}, code.join('\n')));
}
