/**
 * Formatted text as elements: the bot's Markdown, and Slack's own markup (`mrkdwn`) that people and notices use.
 * Only what chats need of either; what is not understood stays as it was written.
 */

import { h } from './dom.js';

const CODE = ['(`+)(?<code>.+?)\\1', (found) => h('code', {}, found.code)];
const URL = ['(?<url>https?://[^\\s<>)]+[^\\s<>).,:;!?])', (found) => link(found.url, found.url)];
const INLINE = {
  markdown: [
    CODE,
    ['\\[(?<label>[^\\]]+)\\]\\((?<href>https?://[^\\s)]+)\\)', (found) => link(found.href, found.label)],
    URL,
    ['\\*\\*(?<bold>\\S(?:.*?\\S)??)\\*\\*', (found, names) => h('strong', {}, inline(found.bold, 'markdown', names))],
    ['(?<![\\w*])\\*(?<italic>[^\\s*](?:[^*]*?[^\\s*])??)\\*(?![\\w*])', (found, names) => h('em', {}, inline(found.italic, 'markdown', names))],
    ['~~(?<struck>\\S(?:.*?\\S)??)~~', (found, names) => h('s', {}, inline(found.struck, 'markdown', names))],
  ],
  mrkdwn: [
    CODE,
    URL,
    ['(?<![\\w*])\\*(?<bold>[^\\s*](?:[^*]*?[^\\s*])??)\\*(?![\\w*])', (found, names) => h('strong', {}, inline(found.bold, 'mrkdwn', names))],
    ['(?<![\\w~])~(?<struck>[^\\s~](?:[^~]*?[^\\s~])??)~(?![\\w~])', (found, names) => h('s', {}, inline(found.struck, 'mrkdwn', names))],
  ],
};
const ITALIC = '(?<![\\w_])_(?<under>[^\\s_](?:[^_]*?[^\\s_])??)_(?![\\w_])';

function link(href, label) {
  return h('a', { href, target: '_blank', rel: 'noopener noreferrer' }, label);
}

function rulesOf(dialect, names) {
  const italic = [ITALIC, (found) => h('em', {}, inline(found.under, dialect, names))];
  const escaped = names.map((name) => name.replace(/[^\w]/g, '\\$&')).join('|');
  const mention = [`(?<![\\w@])@(?<name>${escaped})\\b`, (found) => h('span', { class: 'mention' }, `@${found.name}`)];
  return [...INLINE[dialect], italic, mention];
}

/** One line or paragraph, with what is marked in it. */
function inline(text, dialect, names) {
  const done = document.createDocumentFragment();
  const rules = rulesOf(dialect, names).map(([pattern, make]) => [new RegExp(pattern, 'i'), make]);
  let rest = text;
  while (rest) {
    let first = null;
    for (const [pattern, make] of rules) {
      const found = pattern.exec(rest);
      if (found && (!first || found.index < first.found.index)) first = { found, make };
    }
    if (!first) break;
    const { found, make } = first;
    done.append(rest.slice(0, found.index), make(found.groups, names));
    rest = rest.slice(found.index + found[0].length);
  }
  done.append(rest);
  return done;
}

const STARTS = [
  ['fence', /^ {0,3}(```+|~~~+)/],
  ['heading', /^#{1,6} +(?<text>.*?)#*$/],
  ['bullet', /^ {0,3}[-*+] +(?<text>.*)$/],
  ['number', /^ {0,3}\d{1,4}[.)] +(?<text>.*)$/],
  ['quote', /^> ?(?<text>.*)$/],
  ['blank', /^\s*$/],
];

function startOf(line) {
  for (const [kind, pattern] of STARTS) {
    const found = pattern.exec(line);
    if (found) return { kind, found };
  }
  return { kind: 'text', found: null };
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

/** Takes the lines of one block away, and gives its element. */
function nextBlock(lines, dialect, names) {
  const { kind, found } = startOf(lines[0]);
  if (kind === 'blank') return lines.shift().trim();
  if (kind === 'fence') return codeBlock(lines, found[1]);
  if (kind === 'heading') {
    lines.shift();
    return h('p', { class: 'heading' }, inline(found.groups.text, dialect, names));
  }
  const taken = [];
  while (lines.length && startOf(lines[0]).kind === kind) {
    const line = lines.shift();
    taken.push(startOf(line).found?.groups.text ?? line);
  }
  if (kind === 'bullet' || kind === 'number') {
    const items = taken.map((one) => h('li', {}, inline(one, dialect, names)));
    return h(kind === 'bullet' ? 'ul' : 'ol', kind === 'number' ? { start: Number.parseInt(found[0].trim(), 10) } : {}, ...items);
  }
  const shown = taken.flatMap((one, place) => (place ? [h('br'), inline(one, dialect, names)] : [inline(one, dialect, names)]));
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
