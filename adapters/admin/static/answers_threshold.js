/** From how sure on articles answer a question, who has set that, and what was measured with it. */

import { h } from '/static/dom.js';
import { get, post } from './api.js';
import { t } from './strings.js';
import { ask, button, card, facts, live, number, percent, when } from './ui.js';

export function thresholdCard(mayChange) {
  const node = h('div');
  const refresh = live(node, () => get('threshold'), ({ threshold, default: usual }) => {
    const set = threshold ? [[t('setBy'), threshold.setBy], [t('since'), when(threshold.setAt)]] : [];
    const measured = threshold ? inWords(threshold.report).map((text) => h('p', {}, text)) : [];
    const reset = button(t('resetThreshold'), () => askToReset(usual, refresh));
    const back = threshold && mayChange ? [h('div', { class: 'actions' }, reset)] : [];
    return card(t('threshold'), h('p', { class: 'muted' }, t('thresholdMeans')),
      facts([[t('sureNeeded'), percent(threshold?.value ?? usual)],
        ...(threshold ? [] : [[t('setBy'), t('nobodyDefault')]]), ...set]), ...measured,
      h('p', { class: 'muted' }, t('thresholdHint'), ' ', h('code', {}, 'myna kb calibrate QUESTIONS.jsonl')), ...back);
  });
  return { node, refresh };
}

function inWords(report) {
  const share = (value) => percent(value, 1);
  const words = [];
  if (report?.questions) {
    words.push(t('thresholdKeeps', { questions: number(report.questions), answered: share(report.answered),
      usual: share(report.answered_by_default) }));
  }
  if (report?.others) {
    words.push(t('thresholdRefuses', { others: number(report.others), refused: share(report.refused),
      usual: share(report.refused_by_default) }));
  }
  return words;
}

async function askToReset(usual, refresh) {
  const done = await ask({
    title: t('resetThresholdTitle', { usual: percent(usual) }), lines: [t('resetThresholdMeans')],
    action: t('resetThreshold'),
    success: t('thresholdIsReset'), act: () => post('threshold/reset'),
  });
  if (done) refresh(true);
}
