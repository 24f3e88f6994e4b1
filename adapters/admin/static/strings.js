/** Every word of the admin page that is not the server's, in the language of the browser. */

import * as en from './strings_en.js';
import * as zh from './strings_zh.js';

const isChinese = /^zh\b/i.test(navigator.language || '');
const { words, names } = isChinese ? zh : en;
export const lang = isChinese ? 'zh-Hans' : 'en';

/** @typedef {keyof typeof en.names} Kind */

/**
 * @param {keyof typeof en.words} key
 * @param {Record<string, unknown>} [values]
 */
export function t(key, values = {}) {
  return filled(words[key], values);
}

/**
 * @param {string} text
 * @param {Record<string, unknown>} values
 */
function filled(text, values) {
  return text.replace(/\{(\w+)\}/g, (_, name) => String(values[name] ?? ''));
}

/**
 * A name for a value of the server's; the value itself where there is none.
 * @param {Kind} kind
 * @param {string|null|undefined} value
 * @param {Record<string, unknown>} [values]  what stands for `{name}` in it
 */
export function word(kind, value, values = {}) {
  /** @type {Map<string, string>} */
  const known = new Map(Object.entries(names[kind]));
  return filled(known.get(value ?? '') ?? (value ?? '').replaceAll('_', ' '), values);
}

/** What a job is at. Some phases count trials, or name a suite. @param {string} phase */
export function phaseWords(phase) {
  const [, number, count] = /^trial (\d+) of (\d+)$/.exec(phase) ?? [];
  if (number) return t('phaseTrial', { number, count });
  const [, suite] = /^evaluation: (.+)$/.exec(phase) ?? [];
  if (suite) return t('phaseEvaluation', { suite: word('suite', suite) });
  return word('phase', phase.replaceAll(' ', '_'));
}
