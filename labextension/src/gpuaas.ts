/** The one object behind the plugins: client, store, feed, and which notebook has which session. */

import type { INotebookTracker, NotebookPanel } from '@jupyterlab/notebook';
import type { ServiceManager } from '@jupyterlab/services';
import type { TranslationBundle } from '@jupyterlab/translation';
import { type ISignal, Signal } from '@lumino/signaling';

import { Client } from './api/client';
import { Attachment } from './model/attachment';
import { Feed } from './model/feed';
import { Store } from './model/store';
import { Preferences } from './preferences';
import type { IGpuaas } from './tokens';
import { Words } from './words/trans';

export class Gpuaas implements IGpuaas {
  readonly client: Client;
  readonly store = new Store();
  readonly feed: Feed;
  readonly words: Words;
  readonly preferences = new Preferences();
  readonly currentChanged: ISignal<this, void>;

  constructor(
    manager: ServiceManager.IManager,
    private readonly tracker: INotebookTracker,
    trans: TranslationBundle
  ) {
    this.currentChanged = this._currentChanged;
    this.client = new Client(manager.serverSettings, trans);
    this.feed = new Feed(this.client, this.store, manager.events.stream);
    this.words = new Words(trans);
    this.preferences.changed.connect((_, { lookSeconds }) => this.feed.setPause(lookSeconds));
    tracker.currentChanged.connect(() => this._currentChanged.emit());
    tracker.widgetAdded.connect((_, panel) => void this.attachment(panel));
    tracker.forEach(panel => void this.attachment(panel));
  }

  get currentPanel(): NotebookPanel | null {
    return this.tracker.currentWidget;
  }

  get current(): Attachment | null {
    const panel = this.currentPanel;
    return panel === null ? null : this.attachment(panel);
  }

  attachment(panel: NotebookPanel): Attachment {
    const known = this.attachments.get(panel);
    if (known !== undefined) {
      return known;
    }
    const made = new Attachment(panel.sessionContext, this.client, this.feed);
    this.attachments.set(panel, made);
    made.changed.connect(() => {
      if (panel === this.currentPanel) {
        this._currentChanged.emit();
      }
    });
    return made;
  }

  panelOf(session: string): NotebookPanel | null {
    return this.tracker.find(panel => this.attachment(panel).sessionId === session) ?? null;
  }

  private readonly attachments = new WeakMap<NotebookPanel, Attachment>();
  private readonly _currentChanged = new Signal<this, void>(this);
}
