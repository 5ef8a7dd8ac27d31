/** What the chip in a notebook's toolbar says, and how it looks. */

import * as React from 'react';

import type { IKernel } from '../api/types';
import { isOver, progress } from '../model/phases';
import { DEFAULTS, type IPreferences } from '../model/preferences';
import type { IState } from '../model/state';
import { held, place } from '../words/devices';
import type { Words } from '../words/trans';

export interface IChipFacts {
  readonly text: string;
  readonly state: string;
  /** Read out when it changes: the state only, since the rest changes all the time. */
  readonly spoken: string;
  readonly title: string;
  /** 0 to 1: how full the device is, or how far a move; null where there is nothing to draw. */
  readonly level: number | null;
}

/** @param says - Whether the text tells how full the device is, or the place only. */
export function chipFacts(
  state: IState,
  words: Words,
  kernel: IKernel | null,
  says: IPreferences['chip'] = DEFAULTS.chip
): IChipFacts {
  const { trans } = words;
  const nothing = { spoken: '', level: null };
  if (kernel === null) {
    return { ...nothing, text: trans.__('No kernel'), state: 'none', title: '' };
  }
  if (!kernel.remote) {
    const title = trans.__(
      'The kernel of this notebook runs beside the Jupyter server and ends with it. "Python 3 (remote GPU)" outlives both.'
    );
    return { ...nothing, text: trans.__('Local kernel'), state: 'local', title };
  }
  const sessionId = kernel.session?.id ?? '';
  const session = state.sessions.get(sessionId);
  if (session === undefined) {
    if (kernel.problem !== '') {
      // Told in full by the panel: what is too wide here pushes the kernel's name out of the toolbar.
      const text =
        kernel.session === null ? trans.__('No session') : trans.__('Session of another service');
      return { ...nothing, text, state: 'none', title: kernel.problem };
    }
    const text = state.gone.has(sessionId)
      ? trans.__('Session has ended')
      : trans.__('Looking for a session…');
    return { ...nothing, text, state: 'none', title: '' };
  }
  const migration = state.migrations.get(sessionId);
  const name = words.state(session);
  if (migration !== undefined && !isOver(migration)) {
    const doing = words.phaseShort(migration.phase);
    return {
      text: trans.__('%1 → %2: %3', migration.source, migration.target, doing),
      state: 'migrating',
      spoken: words.phase(migration.phase, migration.target),
      title: trans.__(
        'The session of this notebook moves from %1 to %2.',
        migration.source,
        migration.target
      ),
      level: progress(migration)
    };
  }
  const node = session.lease === null ? undefined : state.nodes.get(session.lease.node_id);
  const [device] = node === undefined ? [] : held(node, session.lease?.device_ids ?? []);
  const level =
    device?.sample && device.device.memory_bytes > 0
      ? device.sample.used_bytes / device.device.memory_bytes
      : null;
  const where = place(session, node, words, says === 'memory');
  return {
    text: where,
    state: session.state,
    spoken: name,
    title: trans.__('This notebook runs on %1 (%2). Press for more.', where, name),
    level: says === 'memory' ? level : null
  };
}

export function ChipView(props: IChipFacts & { readonly onClick: () => void }): JSX.Element {
  const { text, state, spoken, title, level, onClick } = props;
  return (
    <>
      <button
        type="button"
        className="jp-gpuaas-chip"
        data-state={state}
        title={title}
        onClick={onClick}
      >
        <span className="jp-gpuaas-state-mark" aria-hidden />
        <span className="jp-gpuaas-chip-text">{text}</span>
        {level !== null && (
          <span className="jp-gpuaas-chip-level" aria-hidden>
            <span style={{ width: `${Math.round(Math.min(1, level) * 100)}%` }} />
          </span>
        )}
      </button>
      <span role="status" className="jp-gpuaas-spoken">
        {spoken}
      </span>
    </>
  );
}
