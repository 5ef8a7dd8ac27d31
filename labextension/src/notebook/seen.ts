/**
 * Up to where a document has what its session said: kept in its metadata, so that outputs that were cleared stay so.
 *
 * It is written when the document is saved, and not before: it changes nothing that a person would want to save.
 */

import type { NotebookPanel } from '@jupyterlab/notebook';
import type { KernelMessage } from '@jupyterlab/services';

interface IMark {
  readonly journal: string;
  /** A record of that journal, or the id of an execute request whose end was seen. */
  readonly after: number | string;
}

export const METADATA = 'gpuaas';

export class Seen {
  constructor(private readonly panel: NotebookPanel) {
    panel.context.saveState.connect((_, state) => {
      if (state === 'started' && this.mark !== null) {
        this.write(this.mark);
      }
    });
    panel.sessionContext.iopubMessage.connect((_, message) => this.onMessage(message));
  }

  get after(): number | string {
    return this.mark?.after ?? this.read()?.after ?? 0;
  }

  /** That `after` is of; empty while nothing was seen. */
  get journal(): string {
    return this.mark?.journal ?? this.read()?.journal ?? '';
  }

  note(journal: string, last: number): void {
    this.mark = { journal, after: last };
  }

  /** An execution that this page has followed to its end needs not be asked for again. */
  private onMessage(message: KernelMessage.IMessage): void {
    const parent = message.parent_header as Partial<KernelMessage.IHeader>;
    const isEnd =
      message.header.msg_type === 'status' &&
      (message.content as { execution_state?: string }).execution_state === 'idle' &&
      parent.msg_type === 'execute_request';
    if (isEnd && parent.msg_id !== undefined && this.mark !== null) {
      this.mark = { journal: this.mark.journal, after: parent.msg_id };
    }
  }

  private read(): IMark | null {
    const all = this.panel.model?.getMetadata(METADATA) as { seen?: IMark } | undefined;
    return all?.seen ?? null;
  }

  private write(mark: IMark): void {
    const model = this.panel.model;
    const before = (model?.getMetadata(METADATA) ?? {}) as { readonly [key: string]: unknown };
    const seen = before['seen'] as IMark | undefined;
    if (seen?.after !== mark.after || seen?.journal !== mark.journal) {
      model?.setMetadata(METADATA, { ...before, seen: { ...mark } });
    }
  }

  private mark: IMark | null = null;
}
