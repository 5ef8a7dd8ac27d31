/** The state that all views look at, and the signal that says that it has changed. */

import type { ISignal } from '@lumino/signaling';
import { Signal } from '@lumino/signaling';

import { type IState, type News, NOTHING, reduce } from './state';

export class Store {
  readonly changed: ISignal<this, IState>;

  constructor() {
    this.changed = this._changed;
  }

  get state(): IState {
    return this._state;
  }

  tell(news: News): void {
    const next = reduce(this._state, news);
    if (next !== this._state) {
      this._state = next;
      this._changed.emit(next);
    }
  }

  private _state: IState = NOTHING;
  private readonly _changed = new Signal<this, IState>(this);
}
