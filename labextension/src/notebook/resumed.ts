/**
 * An execution that another page began, followed by this one.
 *
 * To the output area of its cell it looks like the request of this page, so that streams, displays, clearing and
 * questions for input go on as if the page had never been away.
 */

import type { Kernel, KernelMessage } from '@jupyterlab/services';
import { DisposableDelegate, type IDisposable } from '@lumino/disposable';

import type { IMissedCell } from '../api/types';

type Request = KernelMessage.IExecuteRequestMsg;
type Reply = KernelMessage.IExecuteReplyMsg;
type Future = Kernel.IShellFuture<Request, Reply>;

const nobody = (): void => undefined;

export class ResumedExecution implements Future {
  onReply: Future['onReply'] = nobody;
  onIOPub: Future['onIOPub'] = nobody;
  onStdin: Future['onStdin'] = nobody;
  /** Never resolved: the reply went to the page that asked. */
  readonly done: Promise<Reply>;
  /** Resolved when the execution is over, or is not followed any more. */
  readonly ended: Promise<void>;
  readonly msg: Request;

  constructor(
    private readonly kernel: Kernel.IKernelConnection,
    private readonly entry: IMissedCell,
    /** Told of each message before the output area is; what it has dealt with (true) goes no further. */
    private readonly before: (message: KernelMessage.IIOPubMessage) => boolean
  ) {
    this.msg = request(entry);
    this.ended = new Promise(resolve => {
      this.end = resolve;
    });
    this.done = this.ended.then(() => Promise.reject(new Error('The reply went to another page.')));
    this.done.catch(nobody);
    this.known = new Set(entry.recent_ids ?? []);
    kernel.anyMessage.connect(this.onMessage, this);
    kernel.disposed.connect(this.dispose, this);
  }

  get isDisposed(): boolean {
    return this._isDisposed;
  }

  dispose(): void {
    if (!this._isDisposed) {
      this._isDisposed = true;
      this.kernel.anyMessage.disconnect(this.onMessage, this);
      this.kernel.disposed.disconnect(this.dispose, this);
      this.end();
    }
  }

  registerMessageHook(): void {
    // Hooks are how `Output` widgets catch what is printed in them; they register with the kernel itself.
  }

  removeMessageHook(): void {
    // None is registered.
  }

  sendInputReply(
    content: KernelMessage.IInputReplyMsg['content'],
    parent: KernelMessage.IInputReplyMsg['parent_header']
  ): void {
    this.kernel.sendInputReply(content, parent);
  }

  /** Pass on what came while it was not known yet that this execution goes on. */
  catchUp(messages: readonly KernelMessage.IIOPubMessage[]): void {
    for (const message of messages) {
      this.take(message);
    }
  }

  private onMessage(_: unknown, { msg, direction }: Kernel.IAnyMessageArgs): void {
    if (direction !== 'recv' || parentOf(msg) !== this.entry.msg_id) {
      return;
    }
    if (msg.channel === 'iopub') {
      this.take(msg as KernelMessage.IIOPubMessage);
    } else if (msg.channel === 'stdin') {
      void this.onStdin(msg as KernelMessage.IStdinMessage);
    }
  }

  private take(message: KernelMessage.IIOPubMessage): void {
    if (
      this._isDisposed ||
      parentOf(message) !== this.entry.msg_id ||
      this.known.has(message.header.msg_id)
    ) {
      return;
    }
    this.known.add(message.header.msg_id);
    if (!this.before(message)) {
      void this.onIOPub(message);
    }
    if (message.header.msg_type === 'status') {
      const { execution_state } = message.content as { execution_state?: string };
      if (execution_state === 'idle') {
        this.dispose();
      }
    }
  }

  private _isDisposed = false;
  private end: () => void = nobody;
  private readonly known: Set<string>;
}

export function parentOf(message: KernelMessage.IMessage): string {
  return (message.parent_header as { msg_id?: string }).msg_id ?? '';
}

/** Puts aside what comes for executions of others, until it is known what to do with it. */
export function putAside(kernel: Kernel.IKernelConnection): {
  readonly messages: KernelMessage.IIOPubMessage[];
  readonly hold: IDisposable;
} {
  const messages: KernelMessage.IIOPubMessage[] = [];
  const take = (_: unknown, message: KernelMessage.IIOPubMessage): void => {
    const session = (message.parent_header as { session?: string }).session;
    if (session !== undefined && session !== kernel.clientId) {
      messages.push(message);
    }
  };
  kernel.iopubMessage.connect(take);
  return {
    messages,
    hold: new DisposableDelegate(() => void kernel.iopubMessage.disconnect(take))
  };
}

/** The request as it may have looked; only its id is ever compared. */
function request(entry: IMissedCell): Request {
  return {
    channel: 'shell',
    header: {
      msg_id: entry.msg_id,
      msg_type: 'execute_request',
      session: '',
      username: '',
      date: '',
      version: '5.3'
    },
    parent_header: {},
    metadata: { cellId: entry.cell_id },
    buffers: [],
    content: {
      code: entry.code,
      silent: false,
      store_history: true,
      allow_stdin: true,
      stop_on_error: true
    }
  };
}
