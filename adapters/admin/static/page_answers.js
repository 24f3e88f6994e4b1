/** Answers without the model: gaps, answers word for word, and how sure is sure enough. */

import { h } from '/static/dom.js';
import { correctionList, curatedList } from './answers_curated.js';
import { gapList } from './answers_gaps.js';
import { thresholdCard } from './answers_threshold.js';

export function answersPage({ may }) {
  const mayChange = may('trainer');
  const gaps = gapList(mayChange);
  const curated = curatedList(mayChange);
  const corrections = may('agent') ? [correctionList(mayChange, () => curated.refresh(true))] : [];
  const threshold = thresholdCard(mayChange);
  const parts = [...corrections, curated, threshold];
  /** Gaps take seconds, so that nothing else waits for them, and nobody looks for them twice unasked. */
  const refresh = async () => {
    gaps.begin();
    await Promise.all(parts.map((one) => one.refresh()));
  };
  return { node: h('div', {}, gaps.node, ...parts.map(({ node }) => node)), refresh };
}
