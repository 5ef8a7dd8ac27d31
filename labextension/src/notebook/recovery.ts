/** Watches one notebook's session for the loss of its node, and says in the notebook what it has cost. */

import { Notification } from '@jupyterlab/apputils';
import type { CodeCell } from '@jupyterlab/cells';
import { NotebookActions, type NotebookPanel } from '@jupyterlab/notebook';
import { Signal } from '@lumino/signaling';

import type { IMissed, SessionState } from '../api/types';
import type { Attachment } from '../model/attachment';
import type { IGpuaas } from '../tokens';
import { type IRunCell, lostCells } from './losses';
import { LossNotice } from './loss_notice';
import { METADATA } from './seen';

/** States in which a session that was lost is back. */
const BACK: ReadonlySet<SessionState> = new Set<SessionState>(['idle', 'busy']);
/** Behind all records, so that the answer tells of no cell, and costs nothing. */
const NO_CELLS = Number.MAX_SAFE_INTEGER;

export class Recovery {
  constructor(
    private readonly panel: NotebookPanel,
    private readonly attachment: Attachment,
    private readonly gpuaas: IGpuaas
  ) {
    gpuaas.store.changed.connect(this.look, this);
    attachment.changed.connect(this.opened, this);
    panel.disposed.connect(() => Signal.clearData(this));
    this.opened();
  }

  /** A notebook that was closed meanwhile is told when it is opened again. */
  private opened(): void {
    const { sessionId } = this.attachment;
    if (sessionId !== '' && sessionId !== this.asked) {
      this.asked = sessionId;
      void this.tell(sessionId, false);
    }
  }

  private look(): void {
    const { sessionId } = this.attachment;
    const state = this.gpuaas.store.state.sessions.get(sessionId)?.state;
    if (state === 'lost') {
      this.lost = sessionId;
    } else if (
      state !== undefined &&
      BACK.has(state) &&
      this.lost === sessionId &&
      sessionId !== ''
    ) {
      this.lost = '';
      void this.tell(sessionId, true);
    }
  }

  private async tell(session: string, isNow: boolean): Promise<void> {
    const { trans } = this.gpuaas.words;
    const told = await this.ask(session);
    if (told === null || this.panel.isDisposed) {
      return;
    }
    const lost = lostCells(this.cells(), told);
    if (lost.length === 0 && isNow) {
      Notification.success(
        trans.__('The node of this session was lost. The session is back, with all its variables.'),
        { autoClose: 15_000 }
      );
    }
    const mark = `${told.journal} ${told.restored_number}`;
    if (lost.length > 0 && (isNow || this.dismissed !== mark)) {
      this.show(told.restored_cell ?? 0, lost, mark);
    }
  }

  /** What the journal says of a loss; null where there was none, or nobody can be asked. */
  private async ask(session: string): Promise<IMissed | null> {
    const { client } = this.gpuaas;
    try {
      await this.panel.context.ready;
      await this.panel.revealed;
      const { restored_cell } = await client.missed(session, NO_CELLS);
      return restored_cell === null ? null : await client.missed(session, 0);
    } catch {
      return null;
    }
  }

  private show(restored: number, lost: readonly IRunCell[], mark: string): void {
    this.notice?.dispose();
    const facts = { restored, lost: lost.map(cell => cell.execution_count) };
    this.notice = new LossNotice(facts, this.gpuaas.words, again => {
      this.dismissed = mark;
      if (again) {
        void this.rerun(lost.map(cell => cell.id));
      }
    });
    this.panel.contentHeader.insertWidget(0, this.notice);
  }

  /** Of which loss the user has said what to do; kept in the document, and saved with it. */
  private get dismissed(): string {
    const ours = this.panel.model?.getMetadata(METADATA) as { loss?: string } | undefined;
    return ours?.loss ?? '';
  }

  private set dismissed(loss: string) {
    const ours = (this.panel.model?.getMetadata(METADATA) ?? {}) as {
      readonly [key: string]: unknown;
    };
    this.panel.model?.setMetadata(METADATA, { ...ours, loss });
  }

  private cells(): IRunCell[] {
    const found: IRunCell[] = [];
    for (const cell of this.panel.content.widgets) {
      if (cell.model.type === 'code') {
        const { model } = cell as CodeCell;
        const outputs = model.outputs.toJSON();
        found.push({
          id: model.id,
          execution_count: model.executionCount,
          errors: outputs
            .filter(each => each.output_type === 'error')
            .map(each => String(each['ename']))
        });
      }
    }
    return found;
  }

  private async rerun(ids: readonly string[]): Promise<void> {
    const { content, sessionContext } = this.panel;
    const cells = ids
      .map(id => content.widgets.find(cell => cell.model.id === id))
      .filter(cell => cell !== undefined);
    await NotebookActions.runCells(content, cells, sessionContext);
  }

  private lost = '';
  private asked = '';
  private notice: LossNotice | null = null;
}
