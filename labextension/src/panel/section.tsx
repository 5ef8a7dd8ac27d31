/** One section of the side panel: a widget that paints a view of the state whenever that, or the notebook in front, changes. */

import { ReactWidget, UseSignal } from '@jupyterlab/ui-components';
import type { IDisposable } from '@lumino/disposable';
import type { Message } from '@lumino/messaging';
import { Signal } from '@lumino/signaling';
import * as React from 'react';

import type { IGpuaas } from '../tokens';

export type View = (gpuaas: IGpuaas) => JSX.Element;

export class Section extends ReactWidget {
  constructor(
    id: string,
    title: string,
    private readonly gpuaas: IGpuaas,
    private readonly view: View
  ) {
    super();
    this.id = `jp-gpuaas-${id}`;
    this.title.label = title;
    this.addClass('jp-gpuaas-section');
    this.node.tabIndex = 0; // So that it can be scrolled with the keyboard.
    this.node.setAttribute('role', 'region');
    this.node.setAttribute('aria-label', title);
    gpuaas.currentChanged.connect(this.again, this);
  }

  override dispose(): void {
    this.watch?.dispose();
    Signal.clearData(this);
    super.dispose();
  }

  protected override render(): JSX.Element {
    return (
      <UseSignal signal={this.gpuaas.store.changed} initialSender={this.gpuaas.store}>
        {() => (this.isVisible ? this.view(this.gpuaas) : <></>)}
      </UseSignal>
    );
  }

  protected override onAfterShow(message: Message): void {
    super.onAfterShow(message);
    this.watch ??= this.gpuaas.feed.watch();
    this.update();
  }

  protected override onAfterAttach(message: Message): void {
    super.onAfterAttach(message);
    if (this.isVisible) {
      this.watch ??= this.gpuaas.feed.watch();
    }
  }

  protected override onAfterHide(message: Message): void {
    super.onAfterHide(message);
    this.watch?.dispose();
    this.watch = null;
  }

  protected override onBeforeDetach(message: Message): void {
    super.onBeforeDetach(message);
    this.watch?.dispose();
    this.watch = null;
  }

  private again(): void {
    this.update();
  }

  private watch: IDisposable | null = null;
}
