/** What people read about states, phases and problems. Whole sentences, each translatable. */

import type { TranslationBundle } from '@jupyterlab/translation';

import type { IEvent, IMigration, INode, ISession, Phase, SessionState } from '../api/types';
import { amount, duration } from './amounts';

export class Words {
  constructor(readonly trans: TranslationBundle) {}

  /** The state of a session, with what there is to know of it. */
  state(session: ISession): string {
    const { trans } = this;
    if (session.state === 'queued' && session.queue_place > 0) {
      return trans.__('place %1 in the queue', session.queue_place);
    }
    if (session.state === 'suspended' && session.queue_place > 0) {
      return trans.__('suspended, place %1 in the queue', session.queue_place);
    }
    return this.stateName(session.state);
  }

  stateName(state: SessionState): string {
    const { trans } = this;
    const names: Record<SessionState, string> = {
      queued: trans.__('waits for a device'),
      starting: trans.__('starting'),
      idle: trans.__('idle'),
      busy: trans.__('busy'),
      suspended: trans.__('suspended until its turn comes'),
      migrating: trans.__('moving'),
      parked: trans.__('parked'),
      lost: trans.__('its node is lost'),
      restoring: trans.__('coming back'),
      closing: trans.__('ending'),
      closed: trans.__('ended'),
      failed: trans.__('failed')
    };
    return names[state];
  }

  /** What a phase of a migration does, for the list of steps. */
  phase(phase: Phase, target: string): string {
    const { trans } = this;
    const steps: Record<Phase, string> = {
      reserve: trans.__('Making room on %1', target),
      pre_copy: trans.__('Copying while you work'),
      quiesce: trans.__('Letting the cell that runs come to its end'),
      stop_copy: trans.__('Copying the last changes'),
      restore: trans.__('Making the variables on %1', target),
      verify: trans.__('Handing over'),
      cutover: trans.__('Beginning on %1', target),
      done: trans.__('Done'),
      failed: trans.__('Failed'),
      cancelled: trans.__('Cancelled')
    };
    return steps[phase];
  }

  /** How a migration ended, and where the session is now. */
  ending(migration: IMigration, session: string): string {
    const { trans } = this;
    const { source, target, cause } = migration;
    switch (migration.phase) {
      case 'done':
        return trans.__(
          '%1 now runs on %2. It stood still for %3; %4 were sent.',
          session,
          target,
          duration(migration.downtime_s),
          amount(migration.bytes_sent)
        );
      case 'cancelled':
        return trans.__('The move was cancelled. %1 still runs on %2.', session, source);
      case 'failed':
        // Where it runs comes first: JupyterLab cuts long notices short.
        return trans.__(
          '%1 still runs on %2, with all its variables. The move to %3 failed: %4',
          session,
          source,
          target,
          cause
        );
      default:
        return this.phase(migration.phase, target);
    }
  }

  nodeState(node: INode): string {
    const { trans } = this;
    const names: Record<INode['state'], string> = {
      up: trans.__('up'),
      cordoned: trans.__('takes no new sessions'),
      lost: trans.__('does not answer')
    };
    return names[node.state];
  }

  /** One line of a session's story. */
  happened(event: IEvent): string {
    const { trans } = this;
    const known: { [kind: string]: string } = {
      checkpoint_taken: trans.__('checkpoint'),
      checkpoint_failed: trans.__('no checkpoint'),
      checkpoint_rarer: trans.__('fewer checkpoints'),
      checkpoint_every: trans.__('pace of checkpoints'),
      checkpoint_forgotten: trans.__('checkpoint removed'),
      checkpoint_restored: trans.__('restored'),
      restored: trans.__('not restored'),
      refused: trans.__('refused'),
      session: trans.__('note')
    };
    if (event.kind === 'transition') {
      return this.stateName(event.target as SessionState) ?? event.target;
    }
    if (event.kind === 'migration') {
      const phase = event.detail['phase'] as Phase;
      const target = String(event.detail['target'] ?? '');
      return this.phase(phase, target) ?? trans.__('move');
    }
    return known[event.kind] ?? event.kind.replace(/_/g, ' ');
  }
}
