/** The side panel: its sections, and which of them there is something to see in. */

import { SidePanel } from '@jupyterlab/ui-components';
import type { ITranslator } from '@jupyterlab/translation';
import { Signal } from '@lumino/signaling';
import type { AccordionPanel } from '@lumino/widgets';
import * as React from 'react';

import { gpuIcon } from '../icons';
import { isCluster, queue } from '../model/select';
import type { IGpuaas } from '../tokens';
import { Checkpoints } from './checkpoints';
import { Nodes } from './nodes';
import type { Run } from './props';
import { Queue } from './queue';
import { Section } from './section';
import { ServiceLine } from './service_line';
import { Sessions } from './sessions';
import { Story } from './story';
import { ThisNotebook } from './this_notebook';
import { otherwise } from './otherwise';

/** Of the height, for each section in its order: where a session runs with what can be done, one row, one checkpoint. */
const SHARES = [7, 5, 4];
/** Of those behind them. */
const SHARE = 3;

export const PANEL_ID = 'jp-gpuaas-panel';

export class GpuaasPanel extends SidePanel {
  constructor(
    private readonly gpuaas: IGpuaas,
    run: Run,
    translator: ITranslator
  ) {
    super({ translator });
    const { trans } = gpuaas.words;
    this.id = PANEL_ID;
    this.title.icon = gpuIcon;
    this.title.caption = trans.__('Remote sessions');
    this.addClass('jp-gpuaas-panel');
    this.node.setAttribute('role', 'region');
    this.node.setAttribute('aria-label', trans.__('Remote sessions'));

    const props = ({ store, words, current }: IGpuaas) => ({
      state: store.state,
      words,
      run,
      current: current?.sessionId ?? ''
    });
    const { client } = gpuaas;
    this.header.addWidget(
      new Section('service', trans.__('Service'), gpuaas, each => <ServiceLine {...props(each)} />)
    );
    this.addWidget(
      new Section('notebook', trans.__('This notebook'), gpuaas, each => (
        <ThisNotebook {...props(each)} otherwise={otherwise(each)} />
      ))
    );
    this.addWidget(
      new Section('sessions', trans.__('My sessions'), gpuaas, each => (
        <Sessions {...props(each)} />
      ))
    );
    this.nodes = new Section('nodes', trans.__('Nodes'), gpuaas, each => (
      <Nodes {...props(each)} />
    ));
    this.queue = new Section('queue', trans.__('Queue'), gpuaas, each => (
      <Queue {...props(each)} />
    ));
    this.addWidget(
      new Section('checkpoints', trans.__('Checkpoints'), gpuaas, each => (
        <Checkpoints
          {...props(each)}
          list={session => client.checkpoints(session)}
          diff={(session, one, other) => client.diff(session, one, other)}
        />
      ))
    );
    const story = new Section('story', trans.__('Story'), gpuaas, each => (
      <Story {...props(each)} list={session => client.story(session)} />
    ));
    this.addWidget(story);
    (this.content as AccordionPanel).collapse(this.content.widgets.indexOf(story));
    this.share();
    gpuaas.store.changed.connect(this.arrange, this);
    this.arrange();
  }

  override dispose(): void {
    Signal.clearData(this);
    super.dispose();
  }

  /** What is only about a pool is not there while there is but one machine, and nobody who waits. */
  private arrange(): void {
    const { state } = this.gpuaas.store;
    this.place(this.nodes, isCluster(state));
    this.place(this.queue, queue(state).length > 0);
  }

  /** Behind those that are always there, whose places the layout remembers by their number. */
  private place(section: Section, isWanted: boolean): void {
    const isThere = section.parent !== null;
    if (isWanted && !isThere) {
      this.addWidget(section);
      this.share();
    } else if (!isWanted && isThere) {
      section.parent = null;
    }
  }

  /** Give each section a height by what is usually in it, until the user sets another one. */
  private share(): void {
    const accordion = this.content as AccordionPanel;
    accordion.setRelativeSizes(accordion.widgets.map((_, index) => SHARES[index] ?? SHARE));
  }

  private readonly nodes: Section;
  private readonly queue: Section;
}
