/** The user's preferences, followed while they change. */

import type { ISettingRegistry } from '@jupyterlab/settingregistry';
import { type ISignal, Signal } from '@lumino/signaling';

import { DEFAULTS, type IPreferences, preferencesOf } from './model/preferences';

export class Preferences {
  readonly changed: ISignal<this, IPreferences>;

  constructor() {
    this.changed = this._changed;
  }

  get current(): IPreferences {
    return this._current;
  }

  /** Follow what is set for a plugin; where that cannot be read, the defaults stay. */
  async follow(registry: ISettingRegistry, plugin: string): Promise<void> {
    const settings = await registry.load(plugin).catch(() => null);
    if (settings !== null) {
      const read = (): void => {
        this._current = preferencesOf(settings.composite);
        this._changed.emit(this._current);
      };
      settings.changed.connect(read);
      read();
    }
  }

  private _current = DEFAULTS;
  private readonly _changed = new Signal<this, IPreferences>(this);
}
