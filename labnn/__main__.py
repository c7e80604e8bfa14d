"""``python -m labnn``: the laboratory work from a terminal, a cluster or CI."""

import argparse
import sys
from dataclasses import fields
from pathlib import Path

import pandas as pd
import torch

from labnn.batches import Batches, decode_images
from labnn.data import open_dataset
from labnn.diagnose import near_duplicates
from labnn.errors import LabError
from labnn.experiment import OPTIMIZERS, Experiment, Run, evaluate_variants, run_name, run_or_load
from labnn.files import written_whole
from labnn.report import start_signals, write_recorded, write_studies
from labnn.studies import STUDIES, run_all
from labnn.tables import changes, number, to_markdown, variants_table

_HELP = {
    "optimizer": f"оптимизатор: {', '.join(OPTIMIZERS)}",
    "epochs": "число эпох",
    "seed": "зерно генератора",
    "lr": "наибольшая скорость обучения расписания",
    "warmup": "доля шагов до наибольшей скорости обучения",
    "weight_decay": "затухание весов (отделённое от градиента)",
    "batch_size": "размер пакета",
    "image_size": "сторона снимка на входе сети, пикселей",
    "start_size": "сторона снимка в первой эпохе, растёт до image_size; 0 — с начала image_size",
    "min_crop_area": "наименьшая доля площади при случайном кадрировании",
    "label_smoothing": "сглаживание меток",
    "version": "версия SqueezeNet: 1_0 или 1_1",
    "batch_norm": "пакетная нормализация в модулях Fire",
    "bypass": "обходные связи вокруг модулей Fire",
    "dropout": "доля отключаемых признаков перед последней свёрткой",
    "init": "начальные веса: he или default (как в PyTorch)",
    "logits_relu": "ReLU на последней свёртке, как в статье",
    "schedule": "расписание скорости обучения: one_cycle или constant",
    "mirror": "отражать половину обучающих снимков",
    "colour": "наибольшее изменение яркости и контраста, доля",
    "mix": "доля пакетов, в которых снимки смешиваются (CutMix или mixup)",
    "mirror_test": "на тесте усреднять ответы на снимок и его отражение",
    "test_size": "сторона снимка на тесте, пикселей; 0 — как при обучении",
    "test_every": "проверять на тесте каждые столько эпох (первая и последняя — всегда)",
    "ema_decay": "экспоненциальное усреднение весов: доля старых весов на шаг, 0 — не усреднять",
    "cosine": "вес косинусной функции потерь рядом с перекрёстной энтропией",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise LabError(f"Неверные аргументы ({message}): смотрите python -m labnn --help.")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m labnn", description="SqueezeNet на Stanford Cars: AMSGrad и Adam.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="КОМАНДА", parser_class=_Parser)
    formatter = argparse.ArgumentDefaultsHelpFormatter

    train = commands.add_parser("train", help="обучить одну сеть и записать прогон", formatter_class=formatter)
    train.add_argument("--data", required=True, type=Path, help="корень набора данных")
    train.add_argument("--out", type=Path, default=Path("data/runs"), help="папка записей: прогон ляжет в папку внутри неё")
    train.add_argument("--cache", type=Path, default=Path("data/cache"), help="папка декодированных снимков и контрольных точек")
    train.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="устройство: cpu, cuda, cuda:1")
    train.add_argument("--crop-to-box", action=argparse.BooleanOptionalAction, default=True, help="кадрировать по рамке из разметки")
    train.add_argument("--skip-missing", action="store_true", help="пропускать снимки, которых нет в папке")
    for field in fields(Experiment):
        flag = f"--{field.name.replace('_', '-')}"
        kind = {"action": argparse.BooleanOptionalAction} if isinstance(field.default, bool) else {"type": type(field.default), "metavar": "X"}
        train.add_argument(flag, default=field.default, help=_HELP[field.name], **kind)

    study = commands.add_parser("study", help="обучить все сети опыта: по одной правке и вместе", formatter_class=formatter)
    study.add_argument("name", choices=STUDIES, metavar="ОПЫТ", help=f"один из {', '.join(STUDIES)}")
    study.add_argument("--data", required=True, type=Path, help="корень набора данных")
    study.add_argument("--out", type=Path, default=Path("data/runs"), help="папка записей: опыт ляжет в папку своего имени внутри неё")
    study.add_argument("--cache", type=Path, default=Path("data/cache"), help="папка декодированных снимков и контрольных точек")
    study.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="устройство: cpu, cuda, cuda:1")
    study.add_argument("--processes", type=int, default=1, help="сколько сетей обучать одновременно")

    variants = commands.add_parser("variants", help="испытать обученную сеть: размер снимка на тесте, отражение", formatter_class=formatter)
    variants.add_argument("--data", required=True, type=Path, help="корень набора данных")
    variants.add_argument("--run", required=True, type=Path, help="папка записанного прогона: рядом с run.json ляжет variants.csv")
    variants.add_argument("--cache", type=Path, default=Path("data/cache"), help="папка, где лежат веса прогона")

    duplicates = commands.add_parser("duplicates", help="найти почти одинаковые снимки в обучающей и тестовой частях", formatter_class=formatter)
    duplicates.add_argument("--data", required=True, type=Path, help="корень набора данных")
    duplicates.add_argument("--out", required=True, type=Path, help="файл CSV: пары снимков, их классы и корреляция")
    duplicates.add_argument("--cache", type=Path, default=Path("data/cache"), help="папка декодированных снимков")

    signal = commands.add_parser("signal", help="как сигнал и градиент проходят слои до обучения", formatter_class=formatter)
    signal.add_argument("--data", required=True, type=Path, help="корень набора данных")
    signal.add_argument("--out", type=Path, default=Path("data/runs/signal.csv"), help="файл CSV: строка на свёртку каждой сети")
    signal.add_argument("--cache", type=Path, default=Path("data/cache"), help="папка декодированных снимков")

    report = commands.add_parser("report", help="построить рисунки и таблицы по записанным прогонам", formatter_class=formatter)
    report.add_argument("--runs", type=Path, default=Path("data/runs"), help="папка записей")
    report.add_argument("--out", type=Path, default=Path("figures/recorded"), help="папка рисунков и таблиц")
    return parser


def _train(arguments: argparse.Namespace) -> None:
    experiment = Experiment(**{field.name: getattr(arguments, field.name) for field in fields(Experiment)})
    data = open_dataset(arguments.data, crop_to_box=arguments.crop_to_box, missing="skip" if arguments.skip_missing else "error")
    folder = arguments.out / run_name(experiment, data)
    print(f"Прогон уже записан: {folder}" if folder.exists() else f"Запись прогона: {folder}", flush=True)
    run_or_load(experiment, data, arguments.out, cache_dir=arguments.cache, device=_device(arguments.device))


def _study(arguments: argparse.Namespace) -> None:
    study = STUDIES[arguments.name]
    data = open_dataset(arguments.data, crop_to_box=True)
    device = _device(arguments.device)

    def progress(run: Run, done: int, total: int, seconds: float) -> None:
        accuracy = number(100 * run.history["test_accuracy"].iloc[-1], 2)
        left = number(seconds / done * (total - done) / 60, 0)
        title = changes(run.experiment, study.base) or "без правок"
        print(f"Готово {done} из {total}, осталось около {left} мин: {title}, зерно {run.experiment.seed}: {accuracy} %", flush=True)

    part = data.validation() if study.validation else data
    options = {"cache_dir": arguments.cache, "device": device, "processes": arguments.processes, "progress": progress}
    run_all(study.experiments(), part, arguments.out / arguments.name, **options)


def _variants(arguments: argparse.Namespace) -> None:
    run = Run.load(arguments.run)
    data = open_dataset(arguments.data, crop_to_box=run.data["crop_to_box"])
    if run.data["name"] == f"{data.name}-validation":
        data = data.validation()
    if data.fingerprint() != run.data["fingerprint"]:
        raise LabError(f"Прогон {arguments.run} сделан на другом наборе, чем {arguments.data}: укажите его набор.")
    weights = next(iter(sorted(arguments.cache.glob(f"{run_name(run.experiment, data)}-*.pt"))), arguments.cache / f"{arguments.run.name}.pt")
    table = evaluate_variants(run.experiment, data, weights, cache_dir=arguments.cache)
    with written_whole(arguments.run / "variants.csv") as unfinished:
        table.to_csv(unfinished, index=False, lineterminator="\n")
    print(to_markdown(variants_table(table)))


def _duplicates(arguments: argparse.Namespace) -> None:
    data = open_dataset(arguments.data, crop_to_box=True)
    pairs = near_duplicates(*(decode_images(part, 128, arguments.cache) for part in (data.train, data.test)))
    table = pd.DataFrame(
        {
            "train_file": [data.train.paths[index].name for index in pairs["first"]],
            "test_file": [data.test.paths[index].name for index in pairs["second"]],
            "train_class": data.train.labels[pairs["first"]],
            "test_class": data.test.labels[pairs["second"]],
            "correlation": pairs["correlation"].round(4),
        }
    )
    with written_whole(arguments.out) as unfinished:
        table.to_csv(unfinished, index=False, lineterminator="\n")
    print(f"Пар: {len(table)}, записаны в {arguments.out}")


def _signal(arguments: argparse.Namespace) -> None:
    data = open_dataset(arguments.data, crop_to_box=True)
    images, labels = next(iter(Batches(decode_images(data.train, 128, arguments.cache), data.train.labels, 64, shuffle=True)))
    table = pd.concat(start_signals(images, labels, len(data.class_names)), names=["network"]).reset_index("network")
    with written_whole(arguments.out) as unfinished:
        table.to_csv(unfinished, index=False, lineterminator="\n", float_format="%.6g")
    print(f"Свёрток: {len(table)}, записаны в {arguments.out}")


def _report(arguments: argparse.Namespace) -> None:
    paths = write_recorded(arguments.runs, arguments.out)
    if (arguments.runs / "recipe").is_dir():
        paths += write_studies(arguments.runs, arguments.out)
    print(*paths, sep="\n")


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        return device
    except (RuntimeError, AssertionError):
        raise LabError(f"Устройство «{name}» недоступно: укажите --device cpu или установите PyTorch с его поддержкой.") from None


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0, or 2 for a mistake of the user's, told in one line on stderr."""
    try:
        parsed = _parser().parse_args(arguments)
        commands = {"train": _train, "study": _study, "variants": _variants, "duplicates": _duplicates, "signal": _signal, "report": _report}
        commands[parsed.command](parsed)
    except LabError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Остановлено; та же команда продолжит с последней законченной эпохи.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
