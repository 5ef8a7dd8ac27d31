/** The body of the dialog that asks where to move a session to. */

import type { Dialog } from '@jupyterlab/apputils';
import { ReactWidget, UseSignal } from '@jupyterlab/ui-components';
import * as React from 'react';

import type { IPlan, ISession } from '../api/types';
import { useAnswer } from '../panel/use_answer';
import type { IGpuaas } from '../tokens';
import { hasRoom } from '../words/devices';
import { sessionTitle } from '../words/names';
import { Plan } from './plan';
import { Targets } from './targets';

export interface IMove {
  readonly target: string;
  readonly acceptLoss: boolean;
}

export class MoveBody extends ReactWidget implements Dialog.IBodyWidget<IMove | null> {
  constructor(
    private readonly gpuaas: IGpuaas,
    private readonly session: string,
    /** Told whenever it becomes possible, or impossible, to begin. */
    private readonly onReady: (isReady: boolean) => void
  ) {
    super();
    this.addClass('jp-gpuaas-dialog');
  }

  getValue(): IMove | null {
    return this.move;
  }

  protected override render(): JSX.Element {
    return (
      <UseSignal signal={this.gpuaas.store.changed} initialSender={this.gpuaas.store}>
        {() => {
          const session = this.gpuaas.store.state.sessions.get(this.session);
          return session === undefined ? (
            <p>{this.gpuaas.words.trans.__('This session has ended.')}</p>
          ) : (
            <Form gpuaas={this.gpuaas} session={session} onChange={this.onChange} />
          );
        }}
      </UseSignal>
    );
  }

  private readonly onChange = (move: IMove | null): void => {
    this.move = move;
    this.onReady(move !== null);
  };

  private move: IMove | null = null;
}

interface IFormProps {
  readonly gpuaas: IGpuaas;
  readonly session: ISession;
  readonly onChange: (move: IMove | null) => void;
}

function Form({ gpuaas, session, onChange }: IFormProps): JSX.Element {
  const { words, client } = gpuaas;
  const { trans } = words;
  const source = session.lease?.node_id ?? '';
  const elsewhere = [...gpuaas.store.state.nodes.values()].filter(node => node.id !== source);
  // Those with room come first, as they were when the dialog came: later on, nothing jumps away under the mouse.
  const [roomy] = React.useState(
    () => new Set(elsewhere.filter(node => hasRoom(node, session)).map(({ id }) => id))
  );
  const others = [
    ...elsewhere.filter(({ id }) => roomy.has(id)),
    ...elsewhere.filter(({ id }) => !roomy.has(id))
  ];
  const best = others.find(node => hasRoom(node, session))?.id ?? null;
  const [chosen, setChosen] = React.useState(best);
  const [acceptLoss, setAcceptLoss] = React.useState(false);
  const target = chosen ?? best;
  const { answer: plan, problem } = useAnswer<IPlan>(
    () => (target === null ? null : client.plan(session.id, target)),
    `${target} ${session.state}`
  );
  const loses = plan !== null && Object.keys(plan.lost).length > 0;
  const isReady = target !== null && plan !== null && (!loses || acceptLoss);
  React.useEffect(() => {
    onChange(isReady && target !== null ? { target, acceptLoss } : null);
  }, [isReady, target, acceptLoss]);

  const form = React.useRef<HTMLDivElement>(null);
  React.useEffect(() => {
    // The dialog gives the focus to a choice if there is one when it comes. This one came later.
    const dialog = form.current?.closest('.jp-Dialog');
    if (dialog && target !== null && !dialog.contains(document.activeElement)) {
      form.current?.querySelector<HTMLInputElement>('input:checked')?.focus();
    }
  }, [target]);

  return (
    <div ref={form}>
      <p>{trans.__('%1 runs on %2.', sessionTitle(session.name), source)}</p>
      {others.length === 0 ? (
        <p className="jp-gpuaas-hint">
          {trans.__('This service has one node only, so there is nowhere to move to.')}
        </p>
      ) : (
        <Targets
          session={session}
          nodes={others}
          chosen={target}
          onChoose={setChosen}
          words={words}
        />
      )}
      {others.length > 0 && target === null && (
        <p role="alert" className="jp-gpuaas-problem">
          {trans.__('No other node has room for it now.')}
        </p>
      )}
      <div aria-live="polite">
        {problem !== '' && (
          <p role="alert" className="jp-gpuaas-problem">
            {problem}
          </p>
        )}
        {plan !== null && <Plan plan={plan} words={words} />}
        {target !== null && plan === null && problem === '' && (
          <p className="jp-gpuaas-hint">{trans.__('Looking at what would move…')}</p>
        )}
      </div>
      {loses && (
        <label className="jp-gpuaas-accept">
          <input
            type="checkbox"
            checked={acceptLoss}
            onChange={event => setAcceptLoss(event.target.checked)}
          />
          {trans.__('Move it all the same')}
        </label>
      )}
    </div>
  );
}
