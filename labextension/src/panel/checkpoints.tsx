/** *Checkpoints*: a timeline of the session of the notebook in front. */

import * as React from 'react';

import type { ICheckpoint, ICheckpointDiff } from '../api/types';
import { isMovable } from '../model/select';
import { amount, duration, shortId, when } from '../words/amounts';
import type { Words } from '../words/trans';
import { Act, ReasonList, useNow } from './parts';
import type { IOneSessionProps, Run } from './props';
import { useAnswer } from './use_answer';

export interface ICheckpointsProps extends IOneSessionProps {
  readonly list: (session: string) => Promise<ICheckpoint[]>;
  readonly diff: (session: string, one: string, other: string) => Promise<ICheckpointDiff>;
}

export function Checkpoints(props: ICheckpointsProps): JSX.Element {
  const { state, words, run, current, list } = props;
  const { trans } = words;
  const status = state.checkpoints.get(current);
  const session = state.sessions.get(current);
  // Listed again when one was taken, removed or restored: each of these is an event of this session.
  const events = state.events.filter(
    each => each.session_id === current && each.kind.startsWith('checkpoint')
  );
  const newest = events[events.length - 1]?.seq ?? 0;
  const turn = `${current} ${status?.taken ?? 0} ${newest} ${state.returns}`;
  const { answer, problem } = useAnswer(() => (current === '' ? null : list(current)), turn);
  if (current === '') {
    return <p className="jp-gpuaas-hint">{trans.__('This notebook has no session.')}</p>;
  }
  if (problem !== '') {
    return (
      <p role="alert" className="jp-gpuaas-problem">
        {problem}
      </p>
    );
  }
  const found = [...(answer ?? [])].reverse();
  return (
    <div>
      <div className="jp-gpuaas-acts">
        <Act
          label={trans.__('Take one now')}
          disabled={session === undefined || !isMovable(session)}
          onClick={() => run('gpuaas:checkpoint', { session: current })}
        />
      </div>
      {found.length === 0 && answer !== null && (
        <p className="jp-gpuaas-hint">{trans.__('None yet: one is taken after each cell.')}</p>
      )}
      <ol className="jp-gpuaas-timeline" aria-label={trans.__('Checkpoints, newest first')}>
        {found.map((checkpoint, index) => (
          <Entry
            key={checkpoint.id}
            checkpoint={checkpoint}
            before={found[index + 1] ?? null}
            isNewest={index === 0}
            diff={props.diff}
            words={words}
            run={run}
          />
        ))}
      </ol>
    </div>
  );
}

interface IEntryProps {
  readonly checkpoint: ICheckpoint;
  readonly before: ICheckpoint | null;
  readonly isNewest: boolean;
  readonly diff: ICheckpointsProps['diff'];
  readonly words: Words;
  readonly run: Run;
}

function Entry({ checkpoint, before, isNewest, diff, words, run }: IEntryProps): JSX.Element {
  const { trans } = words;
  const now = useNow(60);
  const [isCompared, setCompared] = React.useState(false);
  const short = shortId(checkpoint.id);
  const after = trans.__('after cell %1', checkpoint.cell);
  const called = checkpoint.label || after;
  const about = {
    session: checkpoint.session,
    checkpoint: checkpoint.id,
    name: checkpoint.label,
    cell: String(checkpoint.cell)
  };
  const lost = Object.keys(checkpoint.lost).length;
  return (
    <li className={checkpoint.label === '' ? 'jp-gpuaas-point' : 'jp-gpuaas-point jp-mod-named'}>
      <div className="jp-gpuaas-row-head">
        <span className="jp-gpuaas-row-title" title={called}>
          {called}
        </span>
        <time title={short}>{when(checkpoint.created_s, now)}</time>
      </div>
      <div className="jp-gpuaas-row-line">
        {checkpoint.label !== '' && <span>{after}</span>}
        <span>{amount(trans, checkpoint.host_bytes + checkpoint.device_bytes)}</span>
        <span>{trans.__('%1 new', amount(trans, checkpoint.written_bytes))}</span>
        <span>{trans.__('next cell held up %1', duration(trans, checkpoint.stall_s))}</span>
      </div>
      {lost > 0 && (
        <details className="jp-gpuaas-details">
          <summary>{trans._n('%1 name is not in it', '%1 names are not in it', lost)}</summary>
          <ReasonList reasons={checkpoint.lost} />
        </details>
      )}
      <div className="jp-gpuaas-acts">
        <Act
          label={trans.__('Restore…')}
          about={words.of(called)}
          onClick={() => run('gpuaas:restore', about)}
        />
        <Act
          label={trans.__('Name…')}
          about={words.of(called)}
          onClick={() => run('gpuaas:name', about)}
        />
        {before !== null && (
          <Act
            label={isCompared ? trans.__('Hide changes') : trans.__('Changes')}
            about={words.of(called)}
            onClick={() => setCompared(!isCompared)}
          />
        )}
        {!isNewest && (
          <Act
            label={trans.__('Forget')}
            about={words.of(called)}
            onClick={() => run('gpuaas:forget', about)}
          />
        )}
      </div>
      {isCompared && before !== null && (
        <Changes
          turn={`${before.id} ${checkpoint.id}`}
          ask={() => diff(checkpoint.session, before.id, checkpoint.id)}
          words={words}
        />
      )}
    </li>
  );
}

interface IChangesProps {
  readonly turn: string;
  readonly ask: () => Promise<ICheckpointDiff>;
  readonly words: Words;
}

function Changes({ turn, ask, words }: IChangesProps): JSX.Element {
  const { trans } = words;
  const { answer, problem } = useAnswer(ask, turn);
  if (answer === null) {
    return <p className="jp-gpuaas-hint">{problem || trans.__('Comparing…')}</p>;
  }
  const kinds: ReadonlyArray<readonly [string, readonly string[]]> = [
    [trans.__('added'), answer.added],
    [trans.__('changed'), answer.changed],
    [trans.__('removed'), answer.removed]
  ];
  const found = kinds.filter(([, names]) => names.length > 0);
  if (found.length === 0) {
    return <p className="jp-gpuaas-hint">{trans.__('No name differs from the one before.')}</p>;
  }
  return (
    <ul className="jp-gpuaas-reasons" aria-label={trans.__('Changes since the one before')}>
      {found.map(([kind, names]) => (
        <li key={kind}>
          <span className="jp-gpuaas-kind">{kind}</span> <code>{names.join(', ')}</code>
        </li>
      ))}
    </ul>
  );
}
