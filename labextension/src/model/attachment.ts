/** Which session the kernel of one notebook stands for. */

import type { ISessionContext } from '@jupyterlab/apputils';
import type { IDisposable } from '@lumino/disposable';
import { type ISignal, Signal } from '@lumino/signaling';

import type { Client } from '../api/client';
import type { IKernel } from '../api/types';
import type { Feed } from './feed';

/** A proxy that has no session yet is asked for again after this; a server that does not answer, ever more rarely. */
const AGAIN_MS = 2000;
const RAREST_MS = 60_000;

export class Attachment implements IDisposable {
  readonly changed: ISignal<this, void>;

  constructor(
    private readonly context: ISessionContext,
    private readonly client: Client,
    private readonly feed: Feed
  ) {
    this.changed = this._changed;
    context.kernelChanged.connect(this.ask, this);
    context.statusChanged.connect(this.onStatus, this);
    context.disposed.connect(this.dispose, this);
    this.ask();
  }

  /** Null while it is not known, or where there is no kernel. */
  get kernel(): IKernel | null {
    return this._kernel;
  }

  /** Empty: no session, or not yet. */
  get sessionId(): string {
    return this._kernel?.session?.id ?? '';
  }

  get isDisposed(): boolean {
    return this._isDisposed;
  }

  dispose(): void {
    this._isDisposed = true;
    window.clearTimeout(this.timer);
    Signal.clearData(this);
  }

  private onStatus(): void {
    const status = this.context.kernelDisplayStatus;
    // A kernel that was restarted may stand for another session than before; while it restarts, it is the former one
    // that answers for it.
    this.isRestarting ||= status === 'restarting' || status === 'autorestarting';
    if (this.isRestarting || this.isWaiting()) {
      this.ask();
    }
    this.isRestarting &&= status !== 'idle';
  }

  private isWaiting(): boolean {
    return this._kernel === null || (this._kernel.remote && this._kernel.session === null);
  }

  private ask(): void {
    window.clearTimeout(this.timer);
    const id = this.context.session?.kernel?.id;
    if (id === undefined) {
      this.set(null);
      return;
    }
    void this.client
      .kernel(id)
      .catch(() => null)
      .then(kernel => this.answered(id, kernel));
  }

  private answered(id: string, kernel: IKernel | null): void {
    if (this.isDisposed || id !== this.context.session?.kernel?.id) {
      return; // Another kernel meanwhile, which was asked for as well.
    }
    this.set(kernel);
    this.pause = kernel === null ? Math.min(2 * this.pause, RAREST_MS) : AGAIN_MS;
    if (this.isWaiting()) {
      window.clearTimeout(this.timer);
      this.timer = window.setTimeout(() => this.ask(), this.pause);
    }
  }

  private set(kernel: IKernel | null): void {
    const before = this._kernel;
    this._kernel = kernel;
    if (kernel?.session && kernel.session.id !== before?.session?.id) {
      void this.feed.refreshSession(kernel.session.id);
    }
    if (JSON.stringify(before) !== JSON.stringify(kernel)) {
      this._changed.emit();
    }
  }

  private timer = 0;
  private pause = AGAIN_MS;
  private isRestarting = false;
  private _isDisposed = false;
  private _kernel: IKernel | null = null;
  private readonly _changed = new Signal<this, void>(this);
}
