/** A long list of which only what can be seen is on the page. */

import * as React from 'react';

/** Rows above and below those that can be seen, so that scrolling does not show a gap. */
const MARGIN = 8;
/** Lists up to this length are simply there, each row as high as it likes. */
const SHORT = 40;

export interface IRowsProps<T extends { readonly id: string }> {
  readonly label: string;
  readonly items: readonly T[];
  /** Of each row of a long list, in pixels; a function of the item where rows differ. */
  readonly height: number | ((item: T) => number);
  readonly children: (item: T) => JSX.Element;
}

export function Rows<T extends { readonly id: string }>({
  label,
  items,
  height,
  children
}: IRowsProps<T>): JSX.Element {
  const [range, setRange] = React.useState<readonly [number, number]>([0, SHORT]);
  const list = React.useRef<HTMLDivElement>(null);
  const isLong = items.length > SHORT;

  const tops = React.useMemo(
    () => (isLong ? topsOf(items, typeof height === 'number' ? () => height : height) : []),
    [isLong, items, height]
  );
  const latest = React.useRef(tops);
  latest.current = tops;

  React.useEffect(() => {
    const scroller = list.current?.closest<HTMLElement>('.jp-gpuaas-section');
    if (!isLong || !scroller) {
      return;
    }
    const look = (): void => {
      const top = scroller.scrollTop;
      const first = Math.max(0, rowAt(latest.current, top) - MARGIN);
      const end = rowAt(latest.current, top + scroller.clientHeight) + 1 + MARGIN;
      setRange(before => (before[0] === first && before[1] === end ? before : [first, end]));
    };
    look();
    const observer = new ResizeObserver(look);
    observer.observe(scroller);
    scroller.addEventListener('scroll', look, { passive: true });
    return () => {
      observer.disconnect();
      scroller.removeEventListener('scroll', look);
    };
  }, [isLong]);

  const [first, end] = isLong ? range : [0, items.length];
  return (
    <div
      ref={list}
      role="list"
      aria-label={label}
      className={isLong ? 'jp-gpuaas-rows jp-mod-long' : 'jp-gpuaas-rows'}
      style={isLong ? { height: tops[items.length] } : undefined}
    >
      {items.slice(first, end).map((item, index) => (
        <div
          key={item.id}
          role="listitem"
          aria-setsize={items.length}
          aria-posinset={first + index + 1}
          style={isLong ? placeOf(tops, first + index) : undefined}
        >
          {children(item)}
        </div>
      ))}
    </div>
  );
}

/** Where each row begins, and behind them where the last one ends. */
export function topsOf<T>(items: readonly T[], height: (item: T) => number): number[] {
  const tops = [0];
  let top = 0;
  for (const item of items) {
    top += height(item);
    tops.push(top);
  }
  return tops;
}

/** The row that is at this height; the first or the last one where there is none. */
export function rowAt(tops: readonly number[], y: number): number {
  let low = 0;
  let high = Math.max(0, tops.length - 2);
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if ((tops[middle] ?? 0) <= y) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

function placeOf(tops: readonly number[], index: number): React.CSSProperties {
  const top = tops[index] ?? 0;
  return { position: 'absolute', top, height: (tops[index + 1] ?? top) - top };
}
