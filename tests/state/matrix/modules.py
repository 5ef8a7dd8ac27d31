"""Modules: imported, made by hand, changed."""

from __future__ import annotations

from tests.state.cases import HONEST, RIGHT, case

CASES = [
    case(
        "code",
        "module aliases, submodules, names from modules",
        """
        import os.path as p
        import xml.etree.ElementTree as ET
        from collections import abc
        import json, json.decoder
        loads = json.loads
        """,
        """
        import sys
        assert p is sys.modules['os.path'] and ET is sys.modules['xml.etree.ElementTree'] and loads is json.loads
        assert abc is sys.modules['collections.abc'] and json.decoder is sys.modules['json.decoder']
        """,
        RIGHT,
    ),
    case(
        "code",
        "submodule that only an import elsewhere made visible",
        """
        import email
        import email.mime.text as _loaded
        import wsgiref
        __import__('wsgiref.headers')
        """,
        """
        assert email.mime.text.MIMEText('x').get_payload() == 'x'
        assert wsgiref.headers.Headers([('a', 'b')])['A'] == 'b'
        """,
        RIGHT,
    ),
    case(
        "code",
        "module made by hand",
        """
        import types
        tools = types.ModuleType('tools', 'My tools.')
        exec('state = [0]\\ndef bump():\\n    state[0] += 1\\n    return state[0]', tools.__dict__)
        tools.bump()
        bump = tools.bump
        """,
        """
        assert tools.bump() == 2 and bump() == 3 and tools.state == [3] and tools.__doc__ == 'My tools.'
        assert bump.__globals__ is tools.__dict__
        """,
        HONEST,
    ),
    case(
        "code",
        "module made by hand and put in sys.modules",
        """
        import sys, types
        made = types.ModuleType('mine_made')
        made.value = [1]
        sys.modules['mine_made'] = made
        from mine_made import value
        """,
        """
        import mine_made
        assert mine_made is made and made.value is value
        """,
        HONEST,
    ),
    case(
        "code",
        "module file beside the notebook",
        """
        import pathlib, sys
        pathlib.Path('lib').mkdir()
        pathlib.Path('lib/mine_local.py').write_text('counter = [0]\\nclass Thing:\\n    pass\\n')
        sys.path.insert(0, str(pathlib.Path('lib').resolve()))
        import mine_local
        thing = mine_local.Thing()
        """,
        """
        import sys
        assert type(thing) is mine_local.Thing and sys.modules['mine_local'] is mine_local
        assert any(entry.endswith('lib') for entry in sys.path[:2])
        """,
        RIGHT,
    ),
    case(
        "code",
        "state inside an imported module file",
        """
        import pathlib, sys
        pathlib.Path('mine_state.py').write_text('settings = {"mode": "slow"}\\n')
        sys.path.insert(0, str(pathlib.Path().resolve()))
        import mine_state
        mine_state.settings['mode'] = 'fast'
        mine_state.extra = [1]
        """,
        """
        assert mine_state.settings['mode'] == 'fast' and mine_state.extra == [1]
        """,
        HONEST,
    ),
    case(
        "code",
        "patched attribute of an imported module",
        """
        import json
        original = json.dumps
        json.dumps = lambda obj, **options: original(obj, **options) + '!'
        """,
        """
        import json as again
        assert again.dumps(1) == '1!' and original(1) == '1'
        """,
        HONEST,
    ),
    case(
        "code",
        "patched method of an imported class",
        """
        import fractions
        fractions.Fraction.shout = lambda self: f'{self}!'
        old = fractions.Fraction.__str__
        fractions.Fraction.__str__ = lambda self: '<' + old(self) + '>'
        """,
        """
        from fractions import Fraction
        assert str(Fraction(1, 2)) == '<1/2>' and Fraction(1, 2).shout() == '<1/2>!'
        """,
        HONEST,
    ),
    case(
        "code",
        "patched builtin",
        """
        import builtins
        builtins.shout = lambda text: text.upper()
        """,
        """
        assert shout('x') == 'X'
        """,
        HONEST,
    ),
]
