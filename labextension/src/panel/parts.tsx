/** Small things that the sections are made of. */

import * as React from 'react';

export interface IMeterProps {
  /** What is measured, for people who do not see the bar. */
  readonly label: string;
  /** 0 to 1. */
  readonly value: number;
  /** The value in words; shown beside the bar, and read out. */
  readonly text: string;
}

export function Meter({ label, value, text }: IMeterProps): JSX.Element {
  const percent = Math.round(Math.min(1, Math.max(0, value)) * 100);
  return (
    <div className="jp-gpuaas-meter">
      <div
        className="jp-gpuaas-meter-track"
        role="meter"
        aria-label={label}
        aria-valuemin={0}
        aria-valuemax={100}
        aria-valuenow={percent}
        aria-valuetext={text}
      >
        <div className="jp-gpuaas-meter-fill" style={{ width: `${percent}%` }} />
      </div>
      <span className="jp-gpuaas-meter-text">{text}</span>
    </div>
  );
}

export interface ISparklineProps {
  /** Each 0 to 1, newest last. */
  readonly values: readonly number[];
  readonly most: number;
}

/** A short history line. It says nothing that the meters beside it do not say, so it is not read out. */
export function Sparkline({ values, most }: ISparklineProps): JSX.Element | null {
  if (values.length < 2) {
    return null;
  }
  const points = values.map((value, index) => {
    const x = ((most - values.length + index) / (most - 1)) * 100;
    return `${x.toFixed(1)},${(19 - value * 18).toFixed(1)}`;
  });
  return (
    <svg
      className="jp-gpuaas-sparkline"
      viewBox="0 0 100 20"
      preserveAspectRatio="none"
      aria-hidden
    >
      <polyline points={points.join(' ')} />
    </svg>
  );
}

export interface IFactsProps {
  /** Label and value; a value that is null is left out. */
  readonly facts: ReadonlyArray<readonly [string, React.ReactNode]>;
}

export function Facts({ facts }: IFactsProps): JSX.Element {
  return (
    <dl className="jp-gpuaas-facts">
      {facts
        .filter(([, value]) => value !== null && value !== '')
        .map(([label, value]) => (
          <React.Fragment key={label}>
            <dt>{label}</dt>
            <dd>{value}</dd>
          </React.Fragment>
        ))}
    </dl>
  );
}

export interface IActProps {
  readonly label: string;
  /** Names it with what it acts on, so that many buttons of one label can be told apart by ear. */
  readonly about?: (label: string) => string;
  readonly onClick: () => void;
  readonly disabled?: boolean;
  readonly primary?: boolean;
}

export function Act({ label, about, onClick, disabled, primary }: IActProps): JSX.Element {
  return (
    <button
      type="button"
      className={primary ? 'jp-gpuaas-act jp-mod-primary' : 'jp-gpuaas-act'}
      aria-label={about?.(label) ?? label}
      disabled={disabled ?? false}
      onClick={onClick}
    >
      {label}
    </button>
  );
}

/** A state as a word with a mark beside it; the mark alone would be colour only. */
export function State({ state, text }: { state: string; text: string }): JSX.Element {
  return (
    <span className="jp-gpuaas-state" data-state={state}>
      <span className="jp-gpuaas-state-mark" aria-hidden />
      {text}
    </span>
  );
}

/** Names with the reasons why something is the matter with them. */
export function ReasonList({
  reasons
}: {
  reasons: { readonly [name: string]: string };
}): JSX.Element {
  return (
    <ul className="jp-gpuaas-reasons">
      {Object.entries(reasons).map(([name, reason]) => (
        <li key={name}>
          <code>{name}</code>
          {reason === '' ? '' : ` ${reason}`}
        </li>
      ))}
    </ul>
  );
}

/** Tells the time every so many seconds, to all who ask for it so often: ages that are told side by side agree. */
class Clock {
  constructor(private readonly every_s: number) {}

  readonly subscribe = (tell: () => void): (() => void) => {
    if (this.listeners.size === 0) {
      this.timer = window.setInterval(() => this.tick(), this.every_s * 1000);
    }
    this.listeners.add(tell);
    return () => {
      this.listeners.delete(tell);
      if (this.listeners.size === 0) {
        window.clearInterval(this.timer);
      }
    };
  };

  /** As of the last tick; the present, where nobody has listened until now. */
  readonly now = (): number => {
    if (this.listeners.size === 0 && Date.now() / 1000 - this.time_s >= 1) {
      this.time_s = Date.now() / 1000;
    }
    return this.time_s;
  };

  private tick(): void {
    this.time_s = Date.now() / 1000;
    this.listeners.forEach(tell => tell());
  }

  private time_s = 0;
  private timer = 0;
  private readonly listeners = new Set<() => void>();
}

const clocks = new Map<number, Clock>();

/** The time, again and again, while what uses it is on the page. */
export function useNow(every_s = 5): number {
  const clock = clocks.get(every_s) ?? new Clock(every_s);
  clocks.set(every_s, clock);
  return React.useSyncExternalStore(clock.subscribe, clock.now);
}
