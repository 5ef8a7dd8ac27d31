/** *This notebook*: where it runs, how full its device is, what is safe, and what would not survive. */

import * as React from 'react';

import type { ICheckpointStatus, ISession } from '../api/types';
import { isOver } from '../model/phases';
import { hasElsewhere, isMovable } from '../model/select';
import { deviceKey, HISTORY } from '../model/state';
import { age, amount, when } from '../words/amounts';
import { deviceName, fullness, held, heldName } from '../words/devices';
import { sessionTitle } from '../words/names';
import { MoveProgress } from './move_progress';
import { Act, Facts, Meter, ReasonList, Sparkline, State, useNow } from './parts';
import type { IOneSessionProps } from './props';

export interface IThisNotebookProps extends IOneSessionProps {
  /** What to say where there is no session: one sentence. */
  readonly otherwise: string;
}

export function ThisNotebook(props: IThisNotebookProps): JSX.Element {
  const { state, words, run, current, otherwise } = props;
  const now = useNow();
  const session = state.sessions.get(current);
  if (session === undefined) {
    return <p className="jp-gpuaas-hint">{otherwise}</p>;
  }
  const { trans } = words;
  const status = state.checkpoints.get(current) ?? null;
  const migration = state.migrations.get(current);
  const about = { session: session.id };
  const node = session.lease === null ? undefined : state.nodes.get(session.lease.node_id);
  return (
    <div>
      {migration !== undefined && (!isOver(migration) || migration.phase === 'failed') && (
        <MoveProgress
          migration={migration}
          words={words}
          run={run}
          name={sessionTitle(session.name)}
        />
      )}
      <Facts
        facts={[
          [
            trans.__('State'),
            <State
              key="state"
              state={session.state}
              text={words.lasting(session, now) ?? words.state(session)}
            />
          ],
          [trans.__('Node'), session.lease?.node_id ?? null]
        ]}
      />
      {session.cause !== '' && session.lease === null && (
        <p className="jp-gpuaas-hint">{session.cause}</p>
      )}
      <Devices session={session} {...props} />
      <div className="jp-gpuaas-acts">
        {hasElsewhere(state) && (
          <Act
            primary
            label={trans.__('Move…')}
            disabled={!isMovable(session)}
            onClick={() => run('gpuaas:migrate', about)}
          />
        )}
        <Act
          label={trans.__('Checkpoint')}
          disabled={!isMovable(session)}
          onClick={() => run('gpuaas:checkpoint', about)}
        />
        {session.state === 'parked' ? (
          <Act label={trans.__('Wake')} onClick={() => run('gpuaas:wake', about)} />
        ) : (
          <Act
            label={trans.__('Park')}
            disabled={!isMovable(session)}
            onClick={() => run('gpuaas:park', about)}
          />
        )}
        <Act label={trans.__('Release')} onClick={() => run('gpuaas:release', about)} />
      </div>
      <Facts
        facts={[
          [trans.__('Begun'), trans.__('%1 ago', age(trans, now - session.created_s))],
          [trans.__('Used'), words.used(session, node, now)],
          [trans.__('Held'), session.lease === null ? null : words.until(session, now)],
          [trans.__('Checkpoint'), lastCheckpoint(status, now, words)]
        ]}
      />
      {status?.problem && (
        <p role="alert" className="jp-gpuaas-problem">
          {trans.__('The newest checkpoint could not be taken: %1', status.problem)}
        </p>
      )}
      <NotRestorable status={status} {...props} />
    </div>
  );
}

function Devices({
  session,
  state,
  words
}: { session: ISession } & IThisNotebookProps): JSX.Element {
  const { trans } = words;
  const lease = session.lease;
  const node = lease === null ? undefined : state.nodes.get(lease.node_id);
  if (lease === null || node === undefined) {
    return <></>;
  }
  return (
    <>
      {held(node, lease.device_ids).map(each => {
        const { device, sample } = each;
        const name = deviceName(device);
        const used = sample === null ? 0 : sample.used_bytes / device.memory_bytes;
        return (
          <div key={device.id} className="jp-gpuaas-device">
            <div className="jp-gpuaas-device-name">{heldName(device, lease, words)}</div>
            <Meter
              label={trans.__('Memory of %1', name)}
              value={used}
              text={fullness(each, words)}
            />
            {sample !== null && sample.utilisation >= 0 && (
              <Meter
                label={trans.__('Use of %1', name)}
                value={sample.utilisation}
                text={trans.__('%1 % busy', Math.round(sample.utilisation * 100))}
              />
            )}
            <Sparkline
              values={state.history.get(deviceKey(node.id, device.id)) ?? []}
              most={HISTORY}
            />
          </div>
        );
      })}
    </>
  );
}

function lastCheckpoint(
  status: ICheckpointStatus | null,
  now: number,
  { trans }: IThisNotebookProps['words']
): string {
  const last = status?.last;
  if (last === undefined || last === null) {
    return trans.__('none yet');
  }
  const size = amount(trans, last.host_bytes + last.device_bytes);
  return trans.__('after cell %1, %2, %3', last.cell, size, when(last.created_s, now));
}

function NotRestorable({
  status,
  words
}: { status: ICheckpointStatus | null } & IThisNotebookProps): JSX.Element {
  const lost = status?.last?.lost ?? {};
  const count = Object.keys(lost).length;
  if (count === 0) {
    return <></>;
  }
  return (
    <details className="jp-gpuaas-details">
      <summary>
        {words.trans._n('%1 name cannot be restored', '%1 names cannot be restored', count)}
      </summary>
      <ReasonList reasons={lost} />
    </details>
  );
}
