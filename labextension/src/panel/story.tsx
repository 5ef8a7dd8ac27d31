/** *Story*: what happened to the session of the notebook in front, and why. */

import * as React from 'react';

import type { IEvent } from '../api/types';
import { duration, when } from '../words/amounts';
import { useNow } from './parts';
import type { IOneSessionProps } from './props';
import { useAnswer } from './use_answer';

export interface IStoryProps extends IOneSessionProps {
  readonly list: (session: string) => Promise<IEvent[]>;
}

export function Story({ state, words, current, list }: IStoryProps): JSX.Element {
  const { trans } = words;
  const now = useNow(60);
  const events = state.events.filter(each => each.session_id === current);
  const turn = `${current} ${events[events.length - 1]?.seq ?? 0} ${state.returns}`;
  const { answer, problem } = useAnswer(() => (current === '' ? null : list(current)), turn);
  if (current === '' || problem !== '') {
    const text = problem || trans.__('This notebook has no session.');
    return <p className="jp-gpuaas-hint">{text}</p>;
  }
  const lines = told(answer ?? []);
  return (
    <ol className="jp-gpuaas-story" aria-label={trans.__('What happened, newest first')}>
      {lines.map(({ event, lasted_s }) => (
        <li key={event.seq} data-kind={event.kind}>
          <time>{when(event.time_s, now)}</time>
          <span className="jp-gpuaas-story-what">{words.happened(event)}</span>
          {lasted_s !== null && <span>{trans.__('for %1', duration(trans, lasted_s))}</span>}
          {event.cause !== '' && <span className="jp-gpuaas-story-why">{event.cause}</span>}
        </li>
      ))}
    </ol>
  );
}

interface ILine {
  readonly event: IEvent;
  /** How long the state lasted; null for what is no state, and for the present one. */
  readonly lasted_s: number | null;
}

/** Newest first; idle and busy in turns, which say nothing, are left out. Pure. */
export function told(events: readonly IEvent[]): ILine[] {
  const lines: ILine[] = [];
  let until: number | null = null;
  for (const event of [...events].reverse()) {
    if (event.kind !== 'transition') {
      lines.push({ event, lasted_s: null });
      continue;
    }
    const isCell =
      (event.source === 'idle' && event.target === 'busy') ||
      (event.source === 'busy' && event.target === 'idle');
    if (!isCell || event.cause !== '') {
      lines.push({ event, lasted_s: until === null ? null : until - event.time_s });
    }
    until = event.time_s;
  }
  return lines;
}
