/** The chip in a notebook's toolbar: where the notebook runs, and how full its device is. */

import { ReactWidget } from '@jupyterlab/ui-components';
import type { IDisposable } from '@lumino/disposable';
import type { Message } from '@lumino/messaging';
import { Signal } from '@lumino/signaling';
import * as React from 'react';

import type { Attachment } from '../model/attachment';
import type { IGpuaas } from '../tokens';
import { chipFacts, ChipView } from './chip_view';

export class Chip extends ReactWidget {
  constructor(
    private readonly gpuaas: IGpuaas,
    private readonly attachment: Attachment,
    private readonly onClick: () => void
  ) {
    super();
    this.addClass('jp-gpuaas-chip-item');
    gpuaas.store.changed.connect(this.again, this);
    attachment.changed.connect(this.again, this);
    gpuaas.preferences.changed.connect(this.again, this);
  }

  override dispose(): void {
    this.watch?.dispose();
    Signal.clearData(this);
    super.dispose();
  }

  protected override render(): JSX.Element {
    const { store, words } = this.gpuaas;
    const { chip } = this.gpuaas.preferences.current;
    const facts = chipFacts(store.state, words, this.attachment.kernel, chip);
    return <ChipView {...facts} onClick={this.onClick} />;
  }

  protected override onAfterAttach(message: Message): void {
    super.onAfterAttach(message);
    this.again();
  }

  protected override onAfterShow(message: Message): void {
    super.onAfterShow(message);
    this.again();
  }

  protected override onAfterHide(message: Message): void {
    super.onAfterHide(message);
    this.again();
  }

  protected override onAfterDetach(message: Message): void {
    super.onAfterDetach(message);
    this.again();
  }

  private again(): void {
    // Devices are looked at for as long as there is one to show, and somebody to see it.
    const isWanted = this.attachment.sessionId !== '' && this.isVisible;
    if (isWanted && this.watch === null) {
      this.watch = this.gpuaas.feed.watch();
    } else if (!isWanted) {
      this.watch?.dispose();
      this.watch = null;
    }
    if (this.isAttached) {
      this.update();
    }
  }

  private watch: IDisposable | null = null;
}
