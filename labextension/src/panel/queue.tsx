/** *Queue*: who waits for devices, in which order, and for what. */

import * as React from 'react';

import type { IResourceRequest, ISession } from '../api/types';
import { queue } from '../model/select';
import { age, amount, part } from '../words/amounts';
import { sessionTitle } from '../words/names';
import type { Words } from '../words/trans';
import { Act, useNow } from './parts';
import type { IOneSessionProps, Run } from './props';
import { Rows } from './rows';

export function Queue({ state, words, run, current }: IOneSessionProps): JSX.Element {
  const { trans } = words;
  const now = useNow();
  const waiting = queue(state);
  if (waiting.length === 0) {
    return <p className="jp-gpuaas-hint">{trans.__('Nobody waits.')}</p>;
  }
  return (
    <Rows label={trans.__('Queue')} items={waiting} height={ROW_PX}>
      {session => (
        <QueueRow
          session={session}
          isCurrent={session.id === current}
          moment={now}
          words={words}
          run={run}
        />
      )}
    </Rows>
  );
}

/** In a narrow panel: with an estimate of three lines, and a cause of one. */
const ROW_PX = 208;

interface IQueueRowProps {
  readonly session: ISession;
  readonly isCurrent: boolean;
  /** Rises when ages have to be told anew. */
  readonly moment: number;
  readonly words: Words;
  readonly run: Run;
}

const QueueRow = React.memo(function QueueRow(props: IQueueRowProps): JSX.Element {
  const { session, isCurrent, words, run } = props;
  const { trans } = words;
  const now = Date.now() / 1000;
  const title = sessionTitle(session.name);
  return (
    <div className="jp-gpuaas-row" aria-current={isCurrent ? 'true' : undefined}>
      <div className="jp-gpuaas-row-head">
        <span className="jp-gpuaas-row-title" title={session.name}>
          {title}
        </span>
        <span>{words.state(session)}</span>
      </div>
      <div className="jp-gpuaas-row-line">
        <span>{wanted(session, words)}</span>
        <span>
          {trans.__('waits for %1', age(trans, now - (session.since_s || session.created_s)))}
        </span>
      </div>
      <p className="jp-gpuaas-hint">{words.estimate(session, now)}</p>
      {session.cause !== '' && <p className="jp-gpuaas-hint">{session.cause}</p>}
      <div className="jp-gpuaas-acts">
        <Act
          label={trans.__('Release')}
          about={words.of(title)}
          onClick={() => run('gpuaas:release', { session: session.id })}
        />
      </div>
    </div>
  );
});

/** What a session asks for, in words. */
export function wanted({ request }: ISession, { trans }: Words): string {
  const { memory_bytes, node } = request;
  const what = request.share < 1 ? wantedPart(request, trans) : wantedDevices(request, trans);
  const memory = amount(trans, memory_bytes);
  if (memory_bytes > 0 && node !== null) {
    return trans.__('%1, with %2 or more, on %3', what, memory, node);
  }
  if (memory_bytes > 0) {
    return trans.__('%1, with %2 or more', what, memory);
  }
  return node === null ? what : trans.__('%1, on %2', what, node);
}

function wantedDevices({ devices, kind }: IResourceRequest, trans: Words['trans']): string {
  switch (kind) {
    case 'cpu':
      return trans._n('%1 CPU device', '%1 CPU devices', devices);
    case 'cuda':
      return trans._n('%1 GPU', '%1 GPUs', devices);
    default:
      return trans._n('%1 device of any kind', '%1 devices of any kind', devices);
  }
}

function wantedPart({ kind, share }: IResourceRequest, trans: Words['trans']): string {
  switch (kind) {
    case 'cpu':
      return trans.__('%1 of a CPU device', part(share));
    case 'cuda':
      return trans.__('%1 of a GPU', part(share));
    default:
      return trans.__('%1 of a device of any kind', part(share));
  }
}
