/** Phases of a migration, in their order, and what may still be done in them. */

import type { IMigration, Phase } from '../api/types';

export const STEPS: readonly Phase[] = [
  'reserve',
  'pre_copy',
  'quiesce',
  'stop_copy',
  'restore',
  'verify',
  'cutover'
];

const ENDED: ReadonlySet<Phase> = new Set<Phase>(['done', 'failed', 'cancelled']);

export function isOver(migration: IMigration): boolean {
  return ENDED.has(migration.phase);
}

/** Whether the session may still stay where it is. */
export function isReversible(migration: IMigration): boolean {
  return !isOver(migration) && migration.phase !== 'cutover';
}

/** How much of its way a migration has behind it, 0 to 1: by steps, since nobody knows their times. */
export function progress(migration: IMigration): number {
  if (migration.phase === 'done') {
    return 1;
  }
  const step = STEPS.indexOf(migration.phase);
  return step < 0 ? 0 : (step + 0.5) / STEPS.length;
}
