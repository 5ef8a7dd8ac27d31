/** *My sessions*: all of them, also those that nobody is attached to. */

import * as React from 'react';

import type { INode, ISession } from '../api/types';
import { hasElsewhere, isMovable, liveSessions } from '../model/select';
import { age } from '../words/amounts';
import { place } from '../words/devices';
import { sessionTitle } from '../words/names';
import type { Words } from '../words/trans';
import { Act, State, useNow } from './parts';
import type { IOneSessionProps, Run } from './props';
import { Rows } from './rows';

export function Sessions({ state, words, run, current }: IOneSessionProps): JSX.Element {
  const now = useNow();
  const sessions = liveSessions(state);
  if (sessions.length === 0) {
    return <p className="jp-gpuaas-hint">{words.trans.__('No session runs.')}</p>;
  }
  return (
    <Rows label={words.trans.__('My sessions')} items={sessions} height={ROW_PX}>
      {session => (
        <SessionRow
          session={session}
          node={session.lease === null ? undefined : state.nodes.get(session.lease.node_id)}
          isCurrent={session.id === current}
          canMove={hasElsewhere(state)}
          moment={now}
          words={words}
          run={run}
        />
      )}
    </Rows>
  );
}

/** In a narrow panel, where the buttons take two lines, and what is said of the session takes four. */
const ROW_PX = 164;

interface ISessionRowProps {
  readonly session: ISession;
  readonly node: INode | undefined;
  readonly isCurrent: boolean;
  /** Whether there is anywhere to move to. */
  readonly canMove: boolean;
  /** Up to which ages are told, in seconds since the epoch. */
  readonly moment: number;
  readonly words: Words;
  readonly run: Run;
}

const SessionRow = React.memo(function SessionRow(props: ISessionRowProps): JSX.Element {
  const { session, node, isCurrent, canMove, moment, words, run } = props;
  const { trans } = words;
  const title = sessionTitle(session.name);
  const about = { session: session.id };
  const where = session.lease === null ? null : place(session, node, words);
  const lasting = words.lasting(session, moment);
  const alone =
    session.clients > 0 || session.unattended_since_s === 0
      ? null
      : trans.__('nobody attached for %1', age(trans, moment - session.unattended_since_s));
  return (
    <div className="jp-gpuaas-row" aria-current={isCurrent ? 'true' : undefined}>
      <div className="jp-gpuaas-row-head">
        <span className="jp-gpuaas-row-title" title={session.name}>
          {title}
        </span>
        <State state={session.state} text={words.state(session)} />
      </div>
      <div className="jp-gpuaas-row-line">
        {where !== null && <span title={where}>{where}</span>}
        <span>{trans.__('%1 old', age(trans, moment - session.created_s))}</span>
        {lasting !== null && <span>{lasting}</span>}
        {alone !== null && <span>{alone}</span>}
        <span>{trans.__('%1 used', words.used(session, node, moment))}</span>
      </div>
      <div className="jp-gpuaas-acts">
        <Act
          label={trans.__('Open')}
          about={words.of(title)}
          onClick={() => run('gpuaas:open', about)}
        />
        {session.state === 'parked' ? (
          <Act
            label={trans.__('Wake')}
            about={words.of(title)}
            onClick={() => run('gpuaas:wake', about)}
          />
        ) : (
          <>
            {canMove && (
              <Act
                label={trans.__('Move…')}
                about={words.of(title)}
                disabled={!isMovable(session)}
                onClick={() => run('gpuaas:migrate', about)}
              />
            )}
            <Act
              label={trans.__('Park')}
              about={words.of(title)}
              disabled={!isMovable(session)}
              onClick={() => run('gpuaas:park', about)}
            />
          </>
        )}
        {!isCurrent && (
          <Act
            label={trans.__('Attach')}
            about={words.of(title)}
            onClick={() => run('gpuaas:attach', about)}
          />
        )}
        <Act
          label={trans.__('Release')}
          about={words.of(title)}
          onClick={() => run('gpuaas:release', about)}
        />
      </div>
    </div>
  );
});
