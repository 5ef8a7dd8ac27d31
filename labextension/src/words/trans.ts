/** What people read about states, phases and problems. Whole sentences, each translatable. */

import type { TranslationBundle } from '@jupyterlab/translation';

import type { IEvent, IMigration, INode, ISession, Phase, SessionState } from '../api/types';
import { usedSeconds } from '../model/select';
import { age, amount, amountOfHours, duration, shortId, when } from './amounts';

/** A checkpoint that something is to be done with. */
export interface ICheckpointRef {
  readonly id: string;
  /** The user's name for it; empty for none. */
  readonly name: string;
  /** Number of the cell after which it was taken; empty where that is not known. */
  readonly cell: string;
}

export class Words {
  constructor(readonly trans: TranslationBundle) {}

  /** Sentences one after the other, as the language does it. */
  sentences(...all: readonly string[]): string {
    return all.reduce((text, next) => this.trans.__('%1 %2', text, next));
  }

  /** What a button is read out as, beside whose label stands what it acts on. */
  of(about: string): (label: string) => string {
    return label => this.trans.__('%1: %2', label, about);
  }

  /** A checkpoint as its timeline has it; by an end of its id where nothing else is known of it. */
  checkpoint({ id, name, cell }: ICheckpointRef): string {
    const { trans } = this;
    if (name !== '') {
      return trans.__('checkpoint “%1”', name);
    }
    return cell === ''
      ? trans.__('checkpoint %1', shortId(id))
      : trans.__('the checkpoint after cell %1', cell);
  }

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

  /** How long it has been idle or busy; null where that says nothing. */
  lasting(session: ISession, now_s: number): string | null {
    const { trans } = this;
    const { state, since_s } = session;
    if (since_s === 0) {
      return null;
    }
    const long = age(trans, now_s - since_s);
    switch (state) {
      case 'idle':
        return trans.__('idle for %1', long);
      case 'busy':
        return trans.__('busy for %1', long);
      case 'parked':
        return trans.__('parked for %1', long);
      default:
        return null;
    }
  }

  /** What the service does to a session by itself, and when. */
  until(session: ISession, now_s: number): string {
    const { trans } = this;
    const { parks_s, ends_s } = session;
    if (parks_s > 0 && (ends_s === 0 || parks_s <= ends_s)) {
      return trans.__('until %1, when it is parked if it stays idle', when(parks_s, now_s));
    }
    if (ends_s > 0) {
      return trans.__('until %1, when it is ended if nobody attaches', when(ends_s, now_s));
    }
    return trans.__('until it is parked or released');
  }

  /** Devices' time that a session has used. */
  used(session: ISession, node: INode | undefined, now_s: number): string {
    const { trans } = this;
    const hours = amountOfHours(usedSeconds(session, now_s));
    const held = node?.devices.find(device => session.lease?.device_ids.includes(device.id));
    return (held?.kind ?? session.request.kind) === 'cuda'
      ? trans.__('%1 GPU-hours', hours)
      : trans.__('%1 device-hours', hours);
  }

  /** When a session that waits is likely to get devices. */
  estimate(session: ISession, now_s: number): string {
    const { trans } = this;
    const left_s = session.starts_s - now_s;
    if (session.starts_s === 0) {
      return trans.__('Nobody can tell how long it takes: cells run on all devices that would do.');
    }
    return left_s < 2
      ? trans.__('Its turn is about to come.')
      : trans.__('In about %1, if no cell is run there until then.', age(trans, left_s));
  }

  /** How far the emptying of a node is; null where it is not being emptied. */
  drain({ drain }: INode, now_s: number): string | null {
    const { trans } = this;
    if (drain === null) {
      return null;
    }
    const left = drain.left.length;
    if (drain.done) {
      return left === 0
        ? trans.__('It is empty.')
        : trans._n('%1 session has stayed there.', '%1 sessions have stayed there.', left);
    }
    const by = when(drain.deadline_s, now_s);
    return left === 0
      ? trans.__('It is being drained until %1.', by)
      : trans._n(
          'It is being drained until %2: %1 session is left.',
          'It is being drained until %2: %1 sessions are left.',
          left,
          by
        );
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

  /** The same in few words, for the chip in a toolbar. */
  phaseShort(phase: Phase): string {
    const { trans } = this;
    const steps: Record<Phase, string> = {
      reserve: trans.__('making room'),
      pre_copy: trans.__('copying'),
      quiesce: trans.__('waiting for the cell'),
      stop_copy: trans.__('copying the rest'),
      restore: trans.__('making variables'),
      verify: trans.__('handing over'),
      cutover: trans.__('beginning there'),
      done: trans.__('done'),
      failed: trans.__('failed'),
      cancelled: trans.__('cancelled')
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
          duration(trans, migration.downtime_s),
          amount(trans, migration.bytes_sent)
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
      checkpoint_named: trans.__('checkpoint named'),
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
