"""Tests of what the tools of a machine print, as they print it."""

from __future__ import annotations

import pytest

from rbeerouter.agent.readings import (
    Reading,
    apple,
    idle_of_loginctl,
    idle_s_of_ioreg,
    idle_s_of_xprintidle,
    nvidia,
    plays,
    programs,
    rocm,
)

ROCM = """{"card0": {"Temperature (Sensor edge) (C)": "48.0", "Temperature (Sensor junction) (C)": "51.0",
 "Average Graphics Package Power (W)": "31.0", "VRAM Total Memory (B)": "25753026560",
 "VRAM Total Used Memory (B)": "1073741824"},
 "card1": {"Temperature (Sensor edge) (C)": "62.0", "Current Socket Graphics Package Power (W)": "N/A",
 "VRAM Total Memory (B)": "25753026560", "VRAM Total Used Memory (B)": "N/A"}, "system": {"Driver version": "6.7.0"}}"""

VM_STAT = """Mach Virtual Memory Statistics: (page size of 16384 bytes)
Pages free:                               12345.
Pages active:                            655360.
Pages inactive:                          300000.
Pages speculative:                         1000.
Pages wired down:                        131072.
Pages occupied by compressor:             65536.
"""

IOREG = """+-o IOHIDSystem  <class IOHIDSystem, id 0x1000004c3, registered, matched, active, busy 0 (0 ms), retain 25>
    {
      "HIDIdleTime" = 12500000000
      "IOClass" = "IOHIDSystem"
    }
"""

NVIDIA_TABLE = """+---------------------------------------------------------------------------------------+
| Processes:                                                                            |
|  GPU   GI   CI        PID   Type   Process name                            GPU Memory |
|=======================================================================================|
|    0   N/A  N/A      1203      G   /usr/lib/xorg/Xorg                          102MiB |
|    0   N/A  N/A    248811      C   VLLM::EngineCore                          20812MiB |
|    0   N/A  N/A      9911    C+G   ...steamapps/common/Elden Ring/game.exe    6000MiB |
+---------------------------------------------------------------------------------------+
"""


def test_two_cards_of_nvidia_are_one_machine() -> None:
    assert nvidia("24564, 18230, 61, 287.45\n24564, 1024, 48, 31.10\n") == Reading(47.977, 18.803, 61.0, 318.55)


def test_what_a_card_cannot_say_is_not_known() -> None:
    assert nvidia("8192, 100, [N/A], [Not Supported]\n") == Reading(8.0, 0.098, None, None)
    assert nvidia("[N/A], [N/A], 45, [N/A]\n") == Reading(None, None, 45.0, None)


@pytest.mark.parametrize(
    "text", ["", "No devices were found\n", "NVIDIA-SMI has failed because it couldn't communicate with the driver.\n"]
)
def test_a_tool_without_a_card_tells_nothing(text: str) -> None:
    assert (nvidia(text), rocm(text), apple(text, text)) == (None, None, None)


def test_cards_of_amd_are_read_whatever_their_keys_are_called() -> None:
    assert rocm(ROCM) == Reading(47.969, 1.0, 62.0, 31.0)
    assert rocm("[]") is rocm('{"system": {}}') is None


def test_a_mac_has_one_memory() -> None:
    assert apple("38654705664\n", VM_STAT) == Reading(36.0, 13.0)
    assert apple("38654705664\n", "") == Reading(36.0, None)


def test_how_long_nobody_has_touched_anything() -> None:
    assert (idle_s_of_xprintidle("12500\n"), idle_s_of_xprintidle("couldn't open display\n")) == (12.5, None)
    assert (idle_s_of_ioreg(IOREG), idle_s_of_ioreg("")) == (12.5, None)


def test_a_session_with_a_screen_that_is_in_use_is_somebody() -> None:
    used = "Type=wayland\nClass=user\nState=active\nIdleHint=no\n"
    idle = "Type=x11\nClass=user\nState=active\nIdleHint=yes\n"
    ssh = "Type=tty\nClass=user\nState=active\nIdleHint=no\n"
    greeter = "Type=wayland\nClass=greeter\nState=active\nIdleHint=no\n"
    assert [idle_of_loginctl(text) for text in (used, idle, ssh, greeter, "", f"{idle}\n{used}", f"{ssh}\n{idle}")] == [
        False, True, None, None, None, False, True,
    ]  # fmt: skip


def test_a_game_on_the_gpu_is_somebody_and_an_engine_is_not() -> None:
    assert [pid for pid, _ in programs(NVIDIA_TABLE)] == [1203, 248811, 9911]
    assert plays(NVIDIA_TABLE)
    assert not plays(NVIDIA_TABLE.replace("steamapps/common/Elden Ring/game.exe", "python3"))
    assert not plays("248811, VLLM::EngineCore\n1300, /usr/bin/gnome-shell\n")
