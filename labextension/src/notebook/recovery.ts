/** Watches one notebook's session for the loss of its node, and says in the notebook what it has cost. */

import { Notification } from '@jupyterlab/apputils';
import type { CodeCell } from '@jupyterlab/cells';
import { NotebookActions, type NotebookPanel } from '@jupyterlab/notebook';
import { Signal } from '@lumino/signaling';

import type { SessionState } from '../api/types';
import type { Attachment } from '../model/attachment';
import type { IGpuaas } from '../tokens';
import { type IRunCell, lostCells } from './losses';
import { LossNotice } from './loss_notice';

/** States in which a session that was lost is back. */
const BACK: ReadonlySet<SessionState> = new Set<SessionState>(['idle', 'busy']);

export class Recovery {
  constructor(
    private readonly panel: NotebookPanel,
    private readonly attachment: Attachment,
    private readonly gpuaas: IGpuaas
  ) {
    gpuaas.store.changed.connect(this.look, this);
    panel.disposed.connect(() => Signal.clearData(this));
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
      void this.tell(sessionId);
    }
  }

  private async tell(session: string): Promise<void> {
    const { client, words } = this.gpuaas;
    const { trans } = words;
    let restored = 0;
    try {
      restored = (await client.session(session)).checkpoints?.last?.cell ?? 0;
    } catch {
      return; // Gone again: then there is nothing to be rerun in it.
    }
    if (this.panel.isDisposed) {
      return;
    }
    const lost = lostCells(this.cells(), restored);
    if (lost.length === 0) {
      Notification.success(
        trans.__('The node of this session was lost. The session is back, with all its variables.'),
        { autoClose: 15_000 }
      );
      return;
    }
    this.notice?.dispose();
    this.notice = new LossNotice(
      { restored, lost: lost.map(cell => cell.execution_count) },
      words,
      () => void this.rerun(lost.map(cell => cell.id))
    );
    this.panel.contentHeader.insertWidget(0, this.notice);
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
  private notice: LossNotice | null = null;
}
