/** Tells of moves in a notice: while one is under way with a way back, and how it ended. Failures stay. */

import { Notification } from '@jupyterlab/apputils';

import { conclude, failure, type INotice } from '../acts/tell';
import type { IMigration } from '../api/types';
import { cancelMigration, titleOf } from '../acts/sessions';
import { isOver, isReversible } from '../model/phases';
import type { IGpuaas } from '../tokens';
import { amount } from '../words/amounts';

export class MoveNotices {
  constructor(private readonly gpuaas: IGpuaas) {
    this.seen = gpuaas.store.state.migrations;
    gpuaas.store.changed.connect(this.look, this);
  }

  private look(): void {
    const { migrations } = this.gpuaas.store.state;
    if (migrations === this.seen) {
      return;
    }
    const before = this.seen;
    this.seen = migrations;
    for (const [session, migration] of migrations) {
      const known = before.get(session);
      if (migration === known) {
        continue;
      }
      // One that was over when it was first heard of is history.
      const isNews = !isOver(migration) || (known?.id === migration.id && !isOver(known));
      if (isNews && this.isWanted(migration)) {
        this.tell(migration);
      }
    }
  }

  private isWanted(migration: IMigration): boolean {
    const { moveNotices } = this.gpuaas.preferences.current;
    return moveNotices === 'all' || migration.phase === 'failed' || this.shown.has(migration.id);
  }

  private tell(migration: IMigration): void {
    const id = this.shown.get(migration.id);
    const { message, type, ...options } = isOver(migration)
      ? this.ended(migration)
      : this.underWay(migration);
    if (id === undefined) {
      this.shown.set(migration.id, Notification.emit(message, type, options));
    } else if (type === 'in-progress') {
      Notification.update({ id, message, type, ...options });
    } else {
      this.shown.set(migration.id, conclude(id, { message, type, ...options }));
    }
  }

  private underWay(migration: IMigration) {
    const { words } = this.gpuaas;
    const { trans } = words;
    const title = titleOf(this.gpuaas, migration.session_id);
    const doing = words.phase(migration.phase, migration.target);
    const { target, bytes_sent } = migration;
    const message =
      bytes_sent > 0
        ? trans.__(
            '%1 moves to %2. %3. So far %4 were sent.',
            title,
            target,
            doing,
            amount(trans, bytes_sent)
          )
        : trans.__('%1 moves to %2. %3.', title, target, doing);
    const actions = isReversible(migration)
      ? [
          {
            label: trans.__('Cancel the move'),
            caption: trans.__('The session goes on where it is'),
            callback: (event: MouseEvent) => {
              event.preventDefault(); // The notice stays: it says what became of it.
              void cancelMigration(this.gpuaas, migration.session_id, migration.id);
            }
          }
        ]
      : [];
    return {
      message,
      type: 'in-progress' as const,
      autoClose: false as const,
      actions
    };
  }

  private ended(migration: IMigration): INotice {
    const message = this.gpuaas.words.ending(migration, titleOf(this.gpuaas, migration.session_id));
    if (migration.phase === 'failed') {
      return failure(message);
    }
    return { message, type: 'success', autoClose: 8000, actions: [] };
  }

  private seen: ReadonlyMap<string, IMigration>;
  /** Migration -> its notice. */
  private readonly shown = new Map<string, string>();
}
