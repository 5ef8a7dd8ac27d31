/** How far a move is: steps, what it does now, and a way back as long as there is one. */

import * as React from 'react';

import type { IMigration } from '../api/types';
import { isOver, isReversible, progress, STEPS } from '../model/phases';
import { amount } from '../words/amounts';
import type { Words } from '../words/trans';
import { Act } from './parts';
import type { Run } from './props';

export interface IMoveProgressProps {
  readonly migration: IMigration;
  readonly words: Words;
  readonly run: Run;
  /** Name of the session. */
  readonly name: string;
}

export function MoveProgress({ migration, words, run, name }: IMoveProgressProps): JSX.Element {
  const { trans } = words;
  if (isOver(migration)) {
    return (
      <p
        className="jp-gpuaas-move-end"
        data-phase={migration.phase}
        role={migration.phase === 'failed' ? 'alert' : 'status'}
      >
        {words.ending(migration, name)}
      </p>
    );
  }
  const percent = Math.round(progress(migration) * 100);
  const doing = words.phase(migration.phase, migration.target);
  return (
    <section className="jp-gpuaas-move" aria-label={trans.__('Move to %1', migration.target)}>
      <div
        role="progressbar"
        aria-label={trans.__('Move to %1', migration.target)}
        aria-valuemin={0}
        aria-valuemax={100}
        aria-valuenow={percent}
        aria-valuetext={doing}
        className="jp-gpuaas-progress"
      >
        <div className="jp-gpuaas-progress-fill" style={{ width: `${percent}%` }} />
      </div>
      <p className="jp-gpuaas-hint" aria-live="polite">
        {migration.bytes_sent > 0
          ? trans.__('%1: %2 sent', doing, amount(trans, migration.bytes_sent))
          : doing}
      </p>
      <Act
        label={trans.__('Cancel the move')}
        disabled={!isReversible(migration)}
        onClick={() =>
          run('gpuaas:cancel-migration', { session: migration.session_id, migration: migration.id })
        }
      />
      <ol className="jp-gpuaas-steps">
        {STEPS.map(step => (
          <li
            key={step}
            data-step={standing(step, migration)}
            aria-current={step === migration.phase ? 'step' : undefined}
          >
            {words.phase(step, migration.target)}
          </li>
        ))}
      </ol>
    </section>
  );
}

function standing(step: IMigration['phase'], migration: IMigration): 'before' | 'now' | 'after' {
  const order = STEPS.indexOf(step) - STEPS.indexOf(migration.phase);
  return order < 0 ? 'before' : order === 0 ? 'now' : 'after';
}
