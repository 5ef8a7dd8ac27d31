/** Puts the outputs that a document lacks into its cells, when its session ran on while nobody was looking. */

import { Notification } from '@jupyterlab/apputils';
import type { CodeCell } from '@jupyterlab/cells';
import type { IOutput } from '@jupyterlab/nbformat';
import type { NotebookPanel } from '@jupyterlab/notebook';
import type { Kernel, KernelMessage } from '@jupyterlab/services';
import { Signal } from '@lumino/signaling';

import type { IMissed, IMissedCell } from '../api/types';
import type { Attachment } from '../model/attachment';
import type { IGpuaas } from '../tokens';
import { fillings, type IDocumentCell, type IFilling } from './filling';
import { parentOf, putAside, ResumedExecution } from './resumed';
import { Seen } from './seen';

export class MissedOutputs {
  constructor(
    private readonly panel: NotebookPanel,
    private readonly attachment: Attachment,
    private readonly gpuaas: IGpuaas
  ) {
    this.seen = new Seen(panel);
    attachment.changed.connect(this.onAttached, this);
    panel.sessionContext.connectionStatusChanged.connect(this.onConnection, this);
    gpuaas.store.changed.connect(this.onNews, this);
    panel.disposed.connect(() => Signal.clearData(this));
    this.onAttached();
  }

  private onAttached(): void {
    const kernel = this.panel.sessionContext.session?.kernel ?? null;
    const key = `${this.attachment.sessionId} ${kernel?.id ?? ''}`;
    if (this.attachment.sessionId !== '' && kernel !== null && key !== this.filled) {
      this.filled = key;
      void this.fill(kernel, key);
    }
  }

  private onConnection(_: unknown, status: Kernel.ConnectionStatus): void {
    if (status === 'connected') {
      this.filled = '';
      this.onAttached();
    }
  }

  private onNews(): void {
    if (this.refused !== null && this.refused !== this.lastEvent()) {
      this.refused = null;
      this.onAttached();
    }
  }

  /** Number of the newest thing that has happened to the session. */
  private lastEvent(): number {
    return this.gpuaas.store.state.sessions.get(this.attachment.sessionId)?.last_event ?? 0;
  }

  /** Ask what the document lacks, and put it there. Nothing else in the document is touched. */
  private async fill(kernel: Kernel.IKernelConnection, key: string): Promise<void> {
    await this.panel.context.ready.then(() => this.panel.revealed).catch(() => undefined);
    // That may take as long as it likes: nothing is put aside until then.
    if (this.panel.isDisposed || this.filled !== key) {
      return;
    }
    const { messages, hold } = putAside(kernel);
    try {
      const missed = await this.ask();
      if (this.panel.isDisposed || this.filled !== key) {
        return; // Another kernel, or another session, meanwhile: it was asked for as well.
      }
      const cells = this.cells();
      const found = fillings(documentOf(cells), missed.cells);
      for (const filling of found) {
        const cell = cells.get(filling.entry.cell_id);
        if (cell !== undefined) {
          this.put(cell, filling, kernel, messages);
        }
      }
      this.seen.note(missed.journal, missed.last);
      this.tell(found, missed.whole);
    } catch {
      // No host at the moment, maybe: the session's next news asks again.
      if (this.filled === key) {
        this.filled = '';
        this.refused = this.lastEvent();
      }
    } finally {
      hold.dispose();
    }
  }

  private async ask(): Promise<IMissed> {
    const { client } = this.gpuaas;
    const missed = await client.missed(this.attachment.sessionId, this.seen.after);
    // Another journal counts anew: what the document has seen is of the one before.
    const isSame = this.seen.journal === '' || this.seen.journal === missed.journal;
    return isSame ? missed : client.missed(this.attachment.sessionId, 0);
  }

  private cells(): Map<string, CodeCell> {
    const found = new Map<string, CodeCell>();
    for (const cell of this.panel.content.widgets) {
      if (cell.model.type === 'code') {
        found.set(cell.model.id, cell as CodeCell);
      }
    }
    return found;
  }

  private put(
    cell: CodeCell,
    { entry, goesOn }: IFilling,
    kernel: Kernel.IKernelConnection,
    messages: readonly KernelMessage.IIOPubMessage[]
  ): void {
    if (!goesOn) {
      cell.model.outputs.fromJSON(entry.outputs as unknown as IOutput[]);
      cell.model.executionCount = entry.execution_count;
      cell.setPrompt(entry.execution_count === null ? '' : String(entry.execution_count));
      return;
    }
    const execution = new ResumedExecution(kernel, entry, message =>
      this.sort(cell, entry, message)
    );
    cell.outputArea.future = execution; // Clears the outputs, which are set next.
    cell.model.outputs.fromJSON(entry.outputs as unknown as IOutput[]);
    cell.model.executionCount = entry.execution_count;
    cell.setPrompt('*');
    void execution.ended.then(() => {
      if (!cell.isDisposed) {
        cell.setPrompt(cell.model.executionCount === null ? '' : String(cell.model.executionCount));
      }
    });
    execution.catchUp(messages.filter(message => parentOf(message) === entry.msg_id));
  }

  /** What the output area cannot know: the count, and displays that were made before this page came. */
  private sort(cell: CodeCell, entry: IMissedCell, message: KernelMessage.IIOPubMessage): boolean {
    const type = message.header.msg_type;
    if (type === 'execute_input') {
      cell.model.executionCount = (message.content as { execution_count: number }).execution_count;
      cell.setPrompt('*');
      return true;
    }
    if (type === 'update_display_data') {
      const content = message.content as KernelMessage.IUpdateDisplayDataMsg['content'];
      const places = entry.display_ids[content.transient.display_id];
      for (const index of places ?? []) {
        const output = {
          output_type: 'display_data',
          data: content.data,
          metadata: content.metadata
        };
        cell.model.outputs.set(index, output as IOutput);
      }
      return places !== undefined;
    }
    return false;
  }

  private tell(found: readonly IFilling[], isWhole: boolean): void {
    const { words, preferences } = this.gpuaas;
    const { trans } = words;
    const ended = found.filter(each => !each.goesOn).length;
    const going = found.length - ended;
    const lines: string[] = [];
    if (ended > 0) {
      lines.push(
        trans._n(
          'While you were away, %1 cell came to its end; its outputs are filled in.',
          'While you were away, %1 cells came to their end; their outputs are filled in.',
          ended
        )
      );
    }
    if (going > 0) {
      lines.push(trans._n('%1 cell still runs.', '%1 cells still run or wait.', going));
    }
    if (lines.length > 0 && !isWhole) {
      lines.push(trans.__('Some outputs were too old or too large to be kept.'));
    }
    if (lines.length > 0 && preferences.current.filledNotice) {
      Notification.info(words.sentences(...lines), { autoClose: 15_000 });
    }
  }

  private readonly seen: Seen;
  private filled = '';
  /** What had happened to the session when it could not be asked; null where it could. */
  private refused: number | null = null;
}

function documentOf(cells: ReadonlyMap<string, CodeCell>): Map<string, IDocumentCell> {
  const found = new Map<string, IDocumentCell>();
  for (const [id, cell] of cells) {
    const { future } = cell.outputArea;
    found.set(id, {
      id,
      execution_count: cell.model.executionCount,
      outputs: cell.model.outputs.toJSON() as unknown as IDocumentCell['outputs'],
      isFollowed: Boolean(future) && !future.isDisposed
    });
  }
  return found;
}
