/** Every text that people read goes through the translator, in whole sentences: looked up in the sources themselves. */

import * as fs from 'fs';
import * as path from 'path';
import * as ts from 'typescript';

const SOURCES = path.join(__dirname, '..');
const WIDGETS = path.join(__dirname, '../../../jupyter_gpuaas/widgets/static');
/** Attributes and properties that are read by people. */
const READ = new Set([
  'aria-label',
  'body',
  'caption',
  'label',
  'message',
  'okLabel',
  'placeholder',
  'shutdownAllLabel',
  'shutdownLabel',
  'title'
]);
/** Properties of elements that are read by people. */
const WRITTEN = new Set(['ariaLabel', 'innerText', 'placeholder', 'textContent', 'title']);
/** Functions of the widgets that are given a text: which of their arguments it is. */
const TEXT_AT: { readonly [name: string]: number } = { append: 0, button: 1, element: 3 };
const LETTER = /\p{L}/u;
/** What a sentence is made of, as opposed to an address, a class or a key. */
const WORD_AND_BLANK = /\p{L}\s|\s\p{L}/u;

function files(folder: string): string[] {
  return fs.readdirSync(folder, { withFileTypes: true }).flatMap(entry => {
    const found = path.join(folder, entry.name);
    if (entry.isDirectory()) {
      return entry.name === '__tests__' ? [] : files(found);
    }
    return /\.(tsx?|js)$/.test(entry.name) ? [found] : [];
  });
}

function isTranslation(node: ts.Node): node is ts.CallExpression {
  return (
    ts.isCallExpression(node) &&
    ts.isPropertyAccessExpression(node.expression) &&
    ['__', '_n'].includes(node.expression.name.text)
  );
}

function isWritten(node: ts.Node | undefined): boolean {
  const inner = node !== undefined && ts.isJsxExpression(node) ? node.expression : node;
  if (inner === undefined) {
    return false;
  }
  if (ts.isTemplateExpression(inner)) {
    return inner.templateSpans.length > 1 || pieces(inner).some(piece => LETTER.test(piece));
  }
  return ts.isStringLiteralLike(inner) && LETTER.test(inner.text);
}

/** What stands between the values of a template. */
function pieces(template: ts.TemplateExpression): string[] {
  return [template.head.text, ...template.templateSpans.map(span => span.literal.text)];
}

/** The text that a call or an assignment puts before people's eyes. */
function shown(node: ts.Node): ts.Node | undefined {
  if (ts.isBinaryExpression(node) && node.operatorToken.kind === ts.SyntaxKind.EqualsToken) {
    const { left, right } = node;
    return ts.isPropertyAccessExpression(left) && WRITTEN.has(left.name.text) ? right : undefined;
  }
  if (!ts.isCallExpression(node)) {
    return undefined;
  }
  const { expression, arguments: given } = node;
  const name = ts.isPropertyAccessExpression(expression)
    ? expression.name.text
    : expression.getText();
  const [first, second] = given;
  if (name === 'setAttribute' && first !== undefined && ts.isStringLiteralLike(first)) {
    return READ.has(first.text) || first.text === 'aria-valuetext' ? second : undefined;
  }
  return Object.hasOwn(TEXT_AT, name) ? given[TEXT_AT[name]!] : undefined;
}

/** What a value becomes a part of, past brackets, alternatives and what stands behind a question mark. */
function user(node: ts.Node): ts.Node {
  const parent = node.parent;
  const passes =
    ts.isParenthesizedExpression(parent) ||
    ts.isConditionalExpression(parent) ||
    (ts.isBinaryExpression(parent) && parent.operatorToken.kind !== ts.SyntaxKind.PlusToken);
  return passes ? user(parent) : parent;
}

function problem(node: ts.Node): string | null {
  if (ts.isJsxText(node) && LETTER.test(node.text)) {
    return 'a text that is not translated';
  }
  if (ts.isJsxAttribute(node) && READ.has(node.name.getText()) && isWritten(node.initializer)) {
    return 'an attribute that is not translated';
  }
  if (
    ts.isPropertyAssignment(node) &&
    READ.has(node.name.getText()) &&
    isWritten(node.initializer)
  ) {
    return 'a property that is not translated';
  }
  if (isWritten(shown(node))) {
    return 'a text that is shown and not translated';
  }
  if (ts.isTemplateExpression(node) && pieces(node).some(piece => WORD_AND_BLANK.test(piece))) {
    return 'a sentence of pieces';
  }
  if (
    (ts.isJsxElement(node) || ts.isJsxFragment(node)) &&
    node.children.filter(
      each => ts.isJsxExpression(each) && each.expression && isTranslation(each.expression)
    ).length > 1
  ) {
    return 'sentences side by side';
  }
  return isTranslation(node) ? translationProblem(node) : null;
}

function translationProblem(call: ts.CallExpression): string | null {
  const isPlural = (call.expression as ts.PropertyAccessExpression).name.text === '_n';
  const texts = call.arguments.slice(0, isPlural ? 2 : 1);
  if (!texts.every(text => ts.isStringLiteralLike(text))) {
    return 'a text that no language pack can know';
  }
  const values = call.arguments.length - 1 - (isPlural ? 1 : 0);
  for (const text of texts as ts.StringLiteralLike[]) {
    const places = [...text.text.matchAll(/%(\d)/g)].map(([, number]) => Number(number));
    if (Math.max(0, ...places) > values || (!isPlural && new Set(places).size !== values)) {
      return 'places and values differ';
    }
  }
  const part = user(call);
  if (ts.isTemplateSpan(part) || ts.isBinaryExpression(part)) {
    return 'glued into a text';
  }
  if (
    ts.isArrayLiteralExpression(part) &&
    ts.isPropertyAccessExpression(part.parent) &&
    part.parent.name.text === 'join'
  ) {
    return 'joined to a text';
  }
  return null;
}

function problems(name: string, text: string): string[] {
  const found: string[] = [];
  const source = ts.createSourceFile(name, text, ts.ScriptTarget.ES2021, true);
  const visit = (node: ts.Node): void => {
    const what = problem(node);
    if (what !== null) {
      const { line } = source.getLineAndCharacterOfPosition(node.getStart());
      found.push(`${path.relative(SOURCES, name)}:${line + 1}: ${what}: ${node.getText().trim()}`);
    }
    ts.forEachChild(node, visit);
  };
  visit(source);
  return found;
}

describe('the sources', () => {
  it('have no text that goes round the translator', () => {
    const all = files(SOURCES);
    expect(all.length).toBeGreaterThan(50);
    const widgets = files(WIDGETS);
    expect(widgets.length).toBeGreaterThan(2);
    expect(
      [...all, ...widgets].flatMap(name => problems(name, fs.readFileSync(name, 'utf8')))
    ).toEqual([]);
  });
});

describe('the check', () => {
  it.each([
    ['<p>Hello</p>', 'a text'],
    ['<b title="Hello" />', 'an attribute'],
    ['({ label: "Hello" })', 'a property'],
    ['trans.__(hello)', 'no language pack'],
    ['trans.__("%1 of %2", a)', 'places and values'],
    ['trans.__("of", a)', 'places and values'],
    ['<b title={`${one}: ${other}`} />', 'an attribute'],
    ['`${trans.__("so")}-${many}`', 'glued'],
    ['`${count} GB`', 'pieces'],
    ['element(root, "p", "", "Hello")', 'shown'],
    ['element(root, "p", "", `${many} there`)', 'shown'],
    ['root.setAttribute("aria-label", "Hello")', 'shown'],
    ['root.textContent = "Hello"', 'shown'],
    ['trans.__("so") + many', 'glued'],
    ['"so " + (many ? trans.__("many") : trans.__("few"))', 'glued'],
    ['[trans.__("so"), many].join(" ")', 'joined'],
    ['<p>{trans.__("so")} {trans.__("many")}</p>', 'side by side']
  ])('finds what is wrong with %s', (text, what) => {
    expect(problems(path.join(SOURCES, 'made.tsx'), text).join()).toContain(what);
  });

  it.each([
    'element(root, "p", "some-class", trans.__("so"))',
    'root.setAttribute("role", "status")',
    'root.className = "some-class"',
    '`v1/sessions/${session}/story`',
    '<p title={trans.__("so")}>{trans.__("%1 many", a)}</p>',
    'trans._n("%1 is there", "%1 are there", count)',
    'many || trans.__("none")'
  ])('finds nothing wrong with %s', text => {
    expect(problems(path.join(SOURCES, 'made.tsx'), text)).toEqual([]);
  });
});
